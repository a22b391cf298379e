package tests

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hexworker/metaservice"

// rule is what a package may import, test files aside. It reads the sources: a test that ran the go
// command would be served from the test cache.
type rule struct {
	dir      string   // of the packages it is for, with all below; or one file
	std      []string // packages of the standard library; nil is any but noStd
	noStd    []string // and none of these
	own      []string // packages of the module, with all below
	external []string // modules; nil is none, "*" any
}

var pure = []string{
	"bytes", "encoding/binary", "encoding/json", "errors", "fmt", "iter", "log/slog", "maps", "math",
	"path", "slices", "strconv", "strings", "time", "unicode/utf8",
}

// host side packages, which guest-tools never links.
var hostSide = []string{"", "app/host", "adapters/chiapi", "adapters/httpserver", "adapters/tempfiles",
	"adapters/rootfolder", "adapters/uuids", "adapters/processmachine", "adapters/listenmachine",
	"adapters/processes", "adapters/proxies", "adapters/wire", "domain", "ports"}

// rules is the table of the house; the most specific one counts.
var rules = []rule{
	{dir: "domain", std: pure},
	{dir: "ports", std: []string{"errors", "fmt", "context", "io", "io/fs", "iter", "time", "net/http"}, own: []string{"domain"}},
	{dir: "app/host", noStd: []string{"os", "net"}, own: []string{"domain", "ports"}},
	{dir: "app/guest", noStd: []string{"os", "net"}, own: []string{"domain", "ports"}},
	{dir: "adapters", own: []string{"domain", "ports", "adapters/wire"}, external: []string{"*"}},
	{dir: "adapters/chiapi", own: []string{"domain", "ports", "adapters/wire", "adapters/wsshell"}, external: []string{"*"}},
	{dir: "adapters/hostclient", own: []string{"domain", "ports", "adapters/wire", "adapters/wsshell"}, external: []string{"*"}},
	{dir: "adapters/qemu", own: []string{"domain", "ports", "adapters/vmimage", "adapters/vmnet"}, external: []string{"*"}},
	{dir: "cmd/metaservice", own: append(slices.Clone(hostSide), "adapters/guestconfig", "adapters/vmimage", "adapters/qemu"), external: []string{"*"}},
	{dir: "cmd/guest-tools", own: []string{"app/guest", "adapters", "domain", "ports"}, external: []string{"*"}},
	{dir: ".", own: hostSide, external: []string{"github.com/google/jsonschema-go", "github.com/go-json-experiment/json"}},
	{dir: "fx_module.go", own: hostSide, external: []string{"go.uber.org/fx"}},
	{dir: "metaservicetest", own: []string{"domain", "ports", "adapters/wire", "adapters/wsshell"}},
	{dir: "examples", own: []string{"."}, external: []string{"*"}},
	{dir: "tests", own: []string{"."}, external: []string{"*"}},
}

func TestImportTable(t *testing.T) {
	for file, imports := range sources(t) {
		r := ruleFor(path.Dir(file))
		if own := ruleFor(file); own.dir == file { // a rule for this file alone
			r = own
		}
		for _, imported := range imports {
			if why := r.refuses(path.Dir(file), imported); why != "" {
				t.Errorf("%s imports %q: %s", file, imported, why)
			}
		}
	}
}

// TestGuestToolsLinkNothingOfTheHost follows imports from guest-tools to the end: the binary is small,
// and an image shouldn't carry the host's code.
func TestGuestToolsLinkNothingOfTheHost(t *testing.T) {
	byPackage := make(map[string][]string)
	for file, imports := range sources(t) {
		byPackage[path.Dir(file)] = append(byPackage[path.Dir(file)], imports...)
	}
	seen := make(map[string]bool)
	var visit func(dir, from string)
	visit = func(dir, from string) {
		if seen[dir] {
			return
		}
		seen[dir] = true
		if len(byPackage[dir]) == 0 && dir != "domain" {
			t.Errorf("%s, imported by %s, has no sources", dir, from)
		}
		for _, imported := range byPackage[dir] {
			for _, heavy := range []string{"go.uber.org/fx", "github.com/go-chi/", "gvisor.dev", "github.com/spf13/cobra"} {
				if strings.HasPrefix(imported, heavy) {
					t.Errorf("guest-tools links %s by way of %s", imported, dir)
				}
			}
			if own, ok := ownPackage(imported); ok {
				if own == "." || own == "app/host" || own == "adapters/qemu" {
					t.Errorf("guest-tools links %s by way of %s", imported, dir)
				}
				visit(own, dir)
			}
		}
	}
	visit("cmd/guest-tools", "the command line")
	if !seen["app/guest"] {
		t.Error("guest-tools don't link app/guest: the walk has lost its way")
	}
}

func ruleFor(dir string) rule {
	best := rule{dir: "none"}
	for _, r := range rules {
		if dir == r.dir || strings.HasPrefix(dir, r.dir+"/") {
			if best.dir == "none" || len(r.dir) > len(best.dir) {
				best = r
			}
		}
	}
	return best
}

func (r rule) refuses(dir, imported string) string {
	if r.dir == "none" {
		return "the folder is not in the table of the house"
	}
	if own, ok := ownPackage(imported); ok {
		if own == dir || within(own, r.own) {
			return ""
		}
		return "packages below " + r.dir + " may import of the house only " + strings.Join(r.own, ", ")
	}
	if strings.Contains(strings.Split(imported, "/")[0], ".") { // not the standard library
		if within(imported, r.external) || slices.Contains(r.external, "*") {
			return ""
		}
		return "packages below " + r.dir + " may import no such module"
	}
	if within(imported, r.noStd) || r.std != nil && !slices.Contains(r.std, imported) {
		return "packages below " + r.dir + " may not import it"
	}
	return ""
}

func within(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool {
		return prefix == "." || name == prefix || prefix == "" && name == "." || prefix != "" && strings.HasPrefix(name, prefix+"/")
	})
}

func ownPackage(imported string) (string, bool) {
	if imported == module {
		return ".", true
	}
	return strings.CutPrefix(imported, module+"/")
}

// sources is every file that is no test, with its imports, by path from the module's root.
func sources(t *testing.T) map[string][]string {
	t.Helper()
	root := os.DirFS("..")
	found := make(map[string][]string)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if base := path.Base(name); name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin" || base == "tools") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", filepath.FromSlash(name)), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		found[name] = nil
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			found[name] = append(found[name], imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 20 {
		t.Fatalf("only %d sources found: the walk has lost its way", len(found))
	}
	return found
}
