package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The manual names every flag and every limit: what it doesn't name, nobody finds.
func TestTheManualNamesEveryFlagAndLimit(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(text)
	for _, name := range limitNames() {
		if !strings.Contains(manual, "`"+name+"`") {
			t.Errorf("the limit %s is not in it", name)
		}
	}
	for _, command := range []string{"run", "serve", "shell"} {
		_, help, _ := line(t, command, "--help")
		_, flags, found := strings.Cut(help, "\nFlags:\n")
		names := regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[\w-]+)`).FindAllStringSubmatch(flags, -1)
		if !found || len(names) < 9 {
			t.Errorf("the help of %s has the flags %q", command, names)
		}
		for _, name := range names {
			if flag := name[1]; flag != "--help" && !regexp.MustCompile("`"+flag+"[` ]").MatchString(manual) {
				t.Errorf("the flag %s of %s is not in it", flag, command)
			}
		}
	}
}
