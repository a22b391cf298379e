package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestImageCommandLinesThatCannotBe(t *testing.T) {
	t.Chdir(t.TempDir())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	build := func(args ...string) []string {
		return append([]string{"image", "build", "--kernel", "k", "--modules", "m", "--rootfs", "r", "--guest-tools", self, "-o", "out/image"}, args...)
	}
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"nothing to do":     {[]string{"image"}, "say what to do: build"},
		"no such command":   {[]string{"image", "bake"}, `there is no command "bake": it must be build`},
		"an argument":       {build("x"), `only flags: "x" is one`},
		"no kernel":         {build("--kernel", ""), "--kernel is missing"},
		"no modules":        {build("--modules", ""), "--modules is missing"},
		"no root":           {build("--rootfs", ""), "--rootfs is missing"},
		"no output":         {build("--output", ""), "--output is missing"},
		"no size":           {build("--memory", "much"), `--memory: "much" is no size`},
		"little memory":     {build("--memory", "1MiB"), "memory is 1MiB: it must be from 64MiB"},
		"too many":          {build("--cpus", "65"), "cpus is 65"},
		"no guest-tools":    {build("--guest-tools", "nowhere"), "--guest-tools can't be used"},
		"a kernel not here": {build(), `no image was made: the kernel "k": no such file`},
	} {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := line(t, test.args...)
			if status != exitOurs || stdout != "" || !strings.Contains(stderr, test.says) {
				t.Errorf("status %d, %q and %q, want %d and %q", status, stdout, stderr, exitOurs, test.says)
			}
		})
	}
	if left, _ := filepath.Glob("*"); len(left) > 0 {
		t.Errorf("there is %q now", left)
	}
}

// What the manual doesn't name, nobody finds.
func TestTheManualOfImagesNamesEveryFlag(t *testing.T) {
	text, err := os.ReadFile("../../docs/images.md")
	if err != nil {
		t.Fatal(err)
	}
	_, help, _ := line(t, "image", "build", "--help")
	_, flags, found := strings.Cut(help, "\nFlags:\n")
	names := regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[\w-]+)`).FindAllStringSubmatch(flags, -1)
	if !found || len(names) < 9 {
		t.Errorf("the help has the flags %q", names)
	}
	for _, name := range names {
		if flag := name[1]; flag != "--help" && !strings.Contains(string(text), "`"+flag+" ") {
			t.Errorf("the flag %s is not in it", flag)
		}
	}
}
