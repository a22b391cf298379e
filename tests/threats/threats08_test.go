//go:build linux

package threats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/rootfolder"
	"github.com/hexworker/metaservice/adapters/uuids"
	"github.com/hexworker/metaservice/adapters/wire"
	apphost "github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/ports"
)

func init() {
	register("lying lists", lyingLists)
	register("hostile folder", hostileFolder)
}

// lie makes a name that a guest might tell of the folder /folder: most of them are lies.
func lie(random *rand.Rand) string {
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	if random.IntN(4) == 0 { // the truth, sometimes twice
		return fmt.Sprintf("/folder/%s/%d", pick("a", "b c", `back\slash`, "-rf", "ü", "..hidden", "line\nfeed"), random.IntN(3000))
	}
	name := pick("/folder/", "/folder/", "/folder/", "/folder", "/folderbeside/", "/", "", "folder/", "/FOLDER/", "../folder/", `C:\folder\`, `\\host\share\`)
	for range random.IntN(5) {
		name += pick("..", ".", "", "a", "x\x00y", "\x00", strings.Repeat("n", 255), strings.Repeat("n", 256), strings.Repeat("d/", 2100),
			"~", `..\..`, "%2e%2e", "\u2025", "/etc/passwd", "./", "folder")
		name += pick("/", "/", "", "//")
	}
	return name
}

// truths is what of a list may be kept, told in another way than the domain's: each name once that is
// /folder/ and then plain parts.
func truths(names []string) []string {
	var kept []string
	seen := make(map[string]bool)
	for _, name := range names {
		relative, inside := strings.CutPrefix(name, "/folder/")
		fits := inside && len(name) <= 4096 && !strings.Contains(name, "\x00") && fs.ValidPath(relative) && relative != "."
		for _, part := range strings.Split(relative, "/") {
			fits = fits && len(part) <= 255
		}
		if fits && !seen[name] {
			seen[name] = true
			kept = append(kept, name)
		}
	}
	return kept
}

func lies(seed uint64, n int) []string {
	random := rand.New(rand.NewPCG(seed, 8))
	names := make([]string, n)
	for i := range names {
		names[i] = lie(random)
	}
	return names
}

// answerList sends a list as the reply to an action.
func (r *raid) answerList(action wire.Action, names []string) error {
	body, err := json.Marshal(wire.Files{Files: names})
	if err != nil {
		return err
	}
	answer, err := r.ask(slices.Concat([]byte(reply(action.ID)+"Content-Type: application/json\r\n"+sized(int64(len(body)))), body))
	r.count(fmt.Sprint("list ", answer.status), 1)
	return err
}

func lyingLists(r *raid) error {
	for {
		action, err := r.poll()
		if r.over() {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.answerList(action, lies(uint64(r.number("seed")), r.number("names"))); err != nil {
			return err
		}
	}
}

// Threat 8. The ancestor handed on whatever names a guest told. What is kept is exactly what it told, and
// nothing of it leads anywhere else; the rest is counted. domain.FuzzFolderNames looks for more, 50,000
// inputs for each change and ten million in `make soak`.
func TestThreat08ListLies(t *testing.T) {
	t.Parallel()
	names := often(10_000, 200_000)
	for seed := range 2 {
		h := startHost(t, HostSpec{})
		a := attack(t, h, "lying lists", map[string]string{"seed": fmt.Sprint(seed), "names": fmt.Sprint(names)})
		l := within(t, patience(), "the list", begin[Listed](t, h, "List", Ask{Path: "/folder", Keep: true}))
		tally := a.stop(t)
		want := truths(lies(uint64(seed), names))
		t.Logf("of %d names %d are kept, %d refused", names, l.Count, l.Refused)
		if l.failed() || tally.Counts["list 200"] != 1 {
			t.Errorf("%q, %v", l.Text, tally.Counts)
		}
		if !slices.Equal(l.Paths, want) || l.Refused != names-len(want) {
			t.Errorf("%d names are kept and %d refused, not %d and %d", l.Count, l.Refused, len(want), names-len(want))
		}
		for _, path := range l.Paths {
			if clean := filepath.Clean(path); clean != path || !strings.HasPrefix(path, "/folder/") {
				t.Errorf("kept is %.100q", path)
			}
		}
		if len(want) < 1000 || len(want) > names-1000 {
			t.Errorf("of %d names %d are honest: the lies have lost their way", names, len(want))
		}
		lines, err := os.ReadFile(filepath.Join(h.folder, hostLog))
		if err != nil || strings.ContainsAny(string(lines), "\x00\x1b") {
			t.Errorf("the host's log holds the guest's bytes, %v", err)
		}
	}
}

// CollectAt is where Collect listens, and how.
type CollectAt struct{ Address string }

// Collector starts a service of the app's own, for Collect: what brings folders out isn't in the root package.
func (h *Host) Collector(_ struct{}, at *CollectAt) error {
	service, err := apphost.New(apphost.Config{IDs: uuids.Random{}, Limits: h.spec.Limits})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at.Address = listener.Addr().String()
	silence := slog.New(slog.DiscardHandler)
	h.collects = append(h.collects, service)
	h.running.Go(func() { httpserver.Serve(h.life, listener, chiapi.New(service, silence), silence) })
	return nil
}

// Collect is what is to be brought out, and where to.
type Collect struct{ Path, Target string }

// Collected is what became of it.
type Collected struct {
	Failure
	Files, Refused int
}

// Collect brings a folder out of the guest, as the command line does.
func (h *Host) Collect(collect Collect, collected *Collected) error {
	folder, err := rootfolder.Open(collect.Target)
	if err != nil {
		return err
	}
	defer folder.Close()
	c := h.collects[0].Collect(context.Background(), apphost.Wanted{
		Path:   collect.Path,
		File:   func() (ports.Storage, error) { return folder.File("itself"), nil },
		Folder: func() (ports.Folder, error) { return folder, nil },
	}, nil)
	collected.Failure, collected.Files, collected.Refused = failure(c.Err), c.Files, c.Refused
	return nil
}

// hostileNames are lists of names for the folder P, by what they try. OUT is a folder of the host's, by its
// absolute path; what stands in the target already, planted tells.
var hostileNames = map[string][]string{
	"dots":                    {"P/../x", "P/a/../../x", "P/..", "P/../../../../../../../../tmp/x", "P/./../x"},
	"absolute":                {"/etc/x", "OUT/x", "//OUT/x", "/"},
	"relative":                {"x", "../x", "./x", "a/../../x"},
	"a link to the parent":    {"P/parent/x", "P/parent/outside/x"},
	"an absolute link":        {"P/absolute/x", "P/absolute/precious"},
	"a link to a file":        {"P/file"},
	"an absolute link to one": {"P/absolutefile"},
	"a chain of links":        {"P/chain/x"},
	"a dangling link":         {"P/dangling", "P/dangling/x"},
	"a loop of links":         {"P/loop", "P/loop/x"},
	"a link to the process":   {"P/magic/x", "P/magicfd"},
	"NUL bytes":               {"P/x\x00", "P/\x00", "P/../x\x00y"},
	"parts that aren't plain": {"P//x", "P/./x", "P/x/", "P/", "P/.", "P//../x"},
	"backslashes":             {`P/..\x`, `..\x`, `P\..\x`, `P/a\..\..\..\x`},
	"Windows":                 {`C:\x`, "P/C:", "P/CON", "P/aux.txt", "P/x:stream", `\\?\C:\x`},
	"a file that is a folder": {"P/a", "P/a/b", "P/a/b/c", "P/d/e", "P/d"},
	"the same twice":          {"P/a", "P/a", "P/A"},
	"long ones":               {"P/" + strings.Repeat("n", 256), "P/" + strings.Repeat("d/", 2100) + "x", "P/" + strings.Repeat("n", 255)},
	"deep ones":               {"P/" + strings.Repeat("d/", 1000) + "x"},
	"a FIFO and a device":     {"P/fifo", "P/fifo/x"},
	"names of our own":        {"P/.metaservice-x", "P/-rf", "P/~", "P/$HOME", "P/*", "P/x\ny", "P/\x1b[31m"},
	"look-alikes":             {"P/\u2025/x", "P/..\u2215x", "P/\uff0e\uff0e/x", "P/.. /x", "P/ ../x", "P/%2e%2e/x"},
	"the folder itself":       {"P", "", ".", ".."},
	"moved meanwhile":         {"P/sub/x", "P/parent/x", "P/sub/y"},
}

// plant puts links and others into a target before it is written to.
func plant(target, outside string) error {
	link := func(to, name string) error { return os.Symlink(to, filepath.Join(target, name)) }
	return errors.Join(
		os.MkdirAll(filepath.Join(target, "sub"), 0o777),
		link("..", "parent"), link(outside, "absolute"), link("../outside/precious", "file"),
		link(filepath.Join(outside, "precious"), "absolutefile"), link("parent", "chain"),
		link("../outside/new", "dangling"), link("loop", "loop"), link("/proc/self/cwd", "magic"), link("/proc/self/fd/1", "magicfd"),
		syscall.Mkfifo(filepath.Join(target, "fifo"), 0o666),
	)
}

// hostileFolder is the guest of hostileNames: the path that it is asked for ends with the list's name. It
// sends a content for whatever else it is asked for.
func hostileFolder(r *raid) error {
	r.Address = r.Args["address"]
	for {
		action, err := r.poll()
		if r.over() {
			return nil
		}
		if err != nil {
			return err
		}
		switch action.Type {
		case "list-folder":
			var names []string
			for _, name := range hostileNames[strings.TrimPrefix(action.Path, "/folders/")] {
				name = strings.ReplaceAll(name, "OUT", r.Args["outside"])
				if rest, ok := strings.CutPrefix(name, "P"); ok {
					name = action.Path + rest
				}
				names = append(names, name)
			}
			err = r.answerList(action, names)
		case "get-artifact":
			_, err = r.ask([]byte(reply(action.ID) + sized(7) + "hostile"))
		}
		if err != nil {
			return err
		}
	}
}

// Threat 9. kubectl cp and docker cp wrote through links. A folder comes as a list of names and a file for each,
// or as one archive: a name is kept or refused by the same rules, of an archive there are regular files alone,
// and every write goes through os.Root.
func TestThreat09FolderExtraction(t *testing.T) {
	t.Parallel()
	if len(hostileNames) < 20 || len(hostileTars("")) < 20 {
		t.Errorf("the corpus has %d lists and %d archives", len(hostileNames), len(hostileTars("")))
	}
	t.Run("lists", func(t *testing.T) {
		e := newExtractor(t, "hostile folder")
		files, refused := 0, 0
		for _, list := range slices.Sorted(maps.Keys(hostileNames)) {
			c := e.extract(t, "/folders/"+list, list == "names of our own")
			files, refused = files+c.Files, refused+c.Refused
			if len(hostileNames[list]) > c.Files && !c.failed() {
				t.Errorf("%s: %d of %d names came, and nobody is told", list, c.Files, len(hostileNames[list]))
			}
		}
		e.attacker.stop(t)
		t.Logf("of %d lists %d files came, %d names were refused, and the rest could not be written", len(hostileNames), files, refused)
		if files < 10 || refused < 10 {
			t.Errorf("%d files came, %d names were refused: the corpus has lost its way", files, refused)
		}
	})
	t.Run("archives", func(t *testing.T) {
		e := newExtractor(t, "hostile archives")
		e.attacker.hears(t, "hello")
		tars := hostileTars(e.outside)
		for _, name := range slices.Sorted(maps.Keys(tars)) {
			archive := tars[name]
			c := e.extract(t, "/archives/"+name, name == "names of our own")
			if c.Files != archive.files || c.failed() == archive.sound {
				t.Errorf("%s: %d files came, not %d: %q", name, c.Files, archive.files, c.Text)
			}
			if strings.ContainsAny(c.Text, "\x00\x1b") {
				t.Errorf("%s: the error shows the guest's bytes: %q", name, c.Text)
			}
		}
		if tally := e.attacker.stop(t); tally.Counts["archives"] != int64(len(tars)) {
			t.Errorf("of %d archives %d were asked for", len(tars), tally.Counts["archives"])
		}
	})
}

// extractor brings hostile folders out into a folder with planted links.
type extractor struct {
	host            *host
	attacker        *attacker
	target, outside string
	before          map[string]string // what is outside
}

func newExtractor(t *testing.T, attacker string) *extractor {
	t.Helper()
	h := startHost(t, HostSpec{Limits: metaservice.Limits{Tries: 1, ListEntries: archiveEntries, ListBytes: 4 << 20}})
	var at CollectAt
	h.call(t, "Collector", struct{}{}, &at)
	top := filepath.Join(h.folder, "top")
	outside := filepath.Join(top, "outside")
	if err := errors.Join(os.MkdirAll(outside, 0o777), os.WriteFile(filepath.Join(outside, "precious"), []byte("precious"), 0o666)); err != nil {
		t.Fatal(err)
	}
	a := attack(t, h, attacker, map[string]string{"address": at.Address, "outside": outside})
	return &extractor{h, a, filepath.Join(top, "target"), outside, tree(t, h.folder, "")}
}

// extract brings one folder out. Outside nothing may have changed, and inside only files may have come that are
// the guest's, whole.
func (e *extractor) extract(t *testing.T, path string, ours bool) Collected {
	t.Helper()
	if err := plant(e.target, e.outside); err != nil {
		t.Fatal(err)
	}
	planted := tree(t, e.target, "")
	c := within(t, time.Minute, path, begin[Collected](t, e.host, "Collect", Collect{Path: path, Target: e.target}))
	if now := tree(t, e.host.folder, e.target); !maps.Equal(now, e.before) {
		t.Errorf("%s: outside are %q, and not %q", path, now, e.before)
	}
	came := 0
	for name, what := range tree(t, e.target, "") {
		switch {
		case planted[name] == what:
		case what == "folder":
		case strings.HasPrefix(filepath.Base(name), ".metaservice-") && !ours:
			t.Errorf("%s: left is %q", path, name)
		case what == "file hostile", what == "file hos" && strings.HasSuffix(path, "another size in records"):
			came++
		case what == "file " && strings.HasSuffix(path, "empty entries without end"):
			came++
		default:
			t.Errorf("%s: %q is %q", path, name, what)
		}
	}
	if came != c.Files {
		t.Errorf("%s: %d files came, and the host tells of %d", path, came, c.Files)
	}
	if err := os.RemoveAll(e.target); err != nil {
		t.Fatal(err)
	}
	return c
}

// tree tells of all that is below a folder what it is, without what is below another folder and the host's log.
func tree(t *testing.T, folder, without string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == without:
			return filepath.SkipDir
		case path == folder, entry.Name() == hostLog:
			return nil
		}
		name, _ := filepath.Rel(folder, path)
		switch mode := entry.Type(); {
		case mode.IsRegular():
			content, err := os.ReadFile(path)
			all[name] = "file " + string(content)
			return err
		case mode.IsDir():
			all[name] = "folder"
		case mode&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			all[name] = "link " + to
			return err
		default:
			all[name] = mode.String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
