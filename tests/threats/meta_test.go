package threats

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// threats is how many there are.
const threats = 32

// Each threat has exactly one test that is named after its number, and docs/threats.md has a row with that
// name.
func TestEveryThreatHasItsTest(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[int][]string)
	pattern := regexp.MustCompile(`^TestThreat(\d\d)[A-Z]`)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if match := pattern.FindStringSubmatch(function.Name.Name); match != nil {
				n, _ := strconv.Atoi(match[1])
				names[n] = append(names[n], function.Name.Name)
			}
		}
	}
	table, err := os.ReadFile(filepath.Join("..", "..", "docs", "threats.md"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= threats; n++ {
		if len(names[n]) != 1 {
			t.Errorf("threat %d has the tests %q, it must have one", n, names[n])
			continue
		}
		row := regexp.MustCompile(`(?m)^\| ` + strconv.Itoa(n) + ` \|.*`).FindString(string(table))
		if !strings.Contains(row, "`"+names[n][0]+"`") {
			t.Errorf("docs/threats.md has for threat %d the row %q, it must name %s", n, row, names[n][0])
		}
	}
	for n := range names {
		if n < 1 || n > threats {
			t.Errorf("there is no threat %d, but %q", n, names[n])
		}
	}
}
