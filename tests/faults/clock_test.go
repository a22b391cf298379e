package faults

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
)

// stripping are the methods of time.Time, and the functions of package time, after which a time is one of
// the wall clock alone: what is computed with it jumps with that.
var stripping = map[string]bool{
	"Round": true, "Truncate": true, "Unix": true, "UnixNano": true, "UnixMilli": true, "UnixMicro": true,
	"UTC": true, "Local": true, "In": true, "AddDate": true, "Date": true, "Parse": true, "ParseInLocation": true,
}

// wallClock is where that is meant: file, and the call.
var wallClock = map[string]string{
	"cmd/metaservice/result.go UTC":    "it is printed",
	"adapters/qemu/checks.go UnixNano": "a file's time is one of the wall clock",

	"adapters/httpserver/detached.go UTC": "a Date header tells the wall clock",
}

// Every time-out is measured on a clock that nobody can set: a wall clock that jumps, as those of laptops and
// of virtual machines do, ends nothing early and holds nothing up. Go's times carry that clock's reading
// along unless something strips it off, so nothing does. time.Unix(1, 0), long past, is what interrupts a
// Read or a Write.
func TestNoTimeOutLooksAtTheWallClock(t *testing.T) {
	root := os.DirFS("../..")
	sources, used := 0, make(map[string]bool)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			switch base := path.Base(name); {
			case name == ".":
			case strings.HasPrefix(base, "."), base == "testdata", base == "bin", base == "tools", base == "tests", base == "examples":
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, name, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		sources++
		usesTime := false
		for _, spec := range file.Imports {
			usesTime = usesTime || spec.Path.Value == `"time"`
		}
		ast.Inspect(file, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !stripping[method.Sel.Name] || isLongPast(call) {
				return true
			}
			if on, ok := method.X.(*ast.Ident); !usesTime && (!ok || on.Name != "time") && method.Sel.Name != "UnixNano" {
				return true // another type's
			}
			where := name + " " + method.Sel.Name
			if wallClock[where] == "" {
				t.Errorf("%s: %s takes the time off the clock that nobody can set", files.Position(call.Pos()), method.Sel.Name)
			}
			used[where] = true
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if sources < 100 {
		t.Fatalf("only %d sources were found: the walk has lost its way", sources)
	}
	for where := range wallClock {
		if !used[where] {
			t.Errorf("%s isn't there any more", where)
		}
	}
}

// isLongPast tells a time.Unix(1, 0).
func isLongPast(call *ast.CallExpr) bool {
	if len(call.Args) != 2 {
		return false
	}
	first, ok := call.Args[0].(*ast.BasicLit)
	second, ok2 := call.Args[1].(*ast.BasicLit)
	return ok && ok2 && first.Value == "1" && second.Value == "0"
}
