//go:build unix

package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long anything may take that should take no time.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"guest1": guest1})
}

// TestScripts runs the scripts. Their own commands, beside testscript's:
//
//	exits CODE PROGRAM [ARG...]    run it: it must exit with CODE
//	within TIME CODE PROGRAM ...   the same, in less than TIME
//	start NAME PROGRAM [ARG...]    run it meanwhile, with its output in NAME.out and NAME.err
//	unread NAME PROGRAM [ARG...]   the same, with a standard output that nobody reads
//	signal NAME INT|TERM|HUP|KILL  signal what was started, and nothing else
//	ends NAME CODE [TIME]          wait for it: it must exit with CODE, in less than TIME
//	until PATTERN FILE             wait until a file matches
//	address NAME                   wait until NAME serves, and set ADDRESS to where
//	gone FILE                      wait until no process has the id that a file holds
//	deaf CODE PROGRAM [ARG...]     run it with a standard output that nobody reads any more
//	unfed CODE PROGRAM [ARG...]    run it with a standard input that stays open, and empty
//	terminal CODE PROGRAM [ARG...] run it with a terminal for its standard error
//	json FILE FIELD VALUE          a field of a JSON file, such as artifacts.0.kind, must be VALUE
//	tmux COMMAND [ARG...]          a command of tmux, for terminals of the script's own
//	screen PATTERN                 wait until what a terminal of tmux shows matches
func TestScripts(t *testing.T) {
	bin := build(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "within": within, "start": start, "unread": unread, "signal": sendSignal, "ends": ends,
			"until": until, "address": address, "gone": gone, "deaf": deaf, "terminal": terminal,
			"unfed": unfed, "json": field, "tmux": tmux, "screen": screen,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("BIN", bin)
			env.Setenv(marker, env.WorkDir)
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			children := &children{byName: make(map[string]*child)}
			env.Values[childrenKey{}] = children
			tmp := env.Getenv("TMPDIR")
			env.Defer(func() { // before the folder goes
				children.end()
				endTmux(env)
				for _, left := range leftovers(env.WorkDir, tmp) {
					t.Errorf("%s left behind %s", filepath.Base(env.WorkDir), left)
				}
			})
			return nil
		},
	})
}

// build builds both programs, and the example worker. All have the race detector if the test has it, but
// guest-tools don't,
// for it makes a program sleep for a second at its end, and their environment can't forbid that.
func build(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	for program, args := range map[string][]string{"cmd/metaservice": {"-race"}, "examples/worker": {"-race"}, "cmd/guest-tools": nil} {
		if !raceEnabled {
			args = nil
		}
		args = slices.Concat([]string{"build", "-buildvcs=false", "-o", bin}, args, []string{"./" + program})
		cmd := exec.Command("go", args...)
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build of %s: %v\n%s", program, err, out)
		}
	}
	return bin
}

// marker is a variable that every process of a script inherits, unless it takes care not to.
const marker = "METASERVICE_SCRIPT"

// leftovers is what a script left: temporary files, and processes, which get a moment to die.
func leftovers(work, tmp string) []string {
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); pause() {
		left = nil
		entries, _ := os.ReadDir(tmp)
		for _, entry := range entries {
			left = append(left, "the temporary file "+entry.Name())
		}
		processes, _ := filepath.Glob("/proc/[0-9]*")
		for _, process := range processes {
			if belongs(process, work) {
				command, _ := os.ReadFile(filepath.Join(process, "cmdline"))
				left = append(left, "the process "+strings.ReplaceAll(string(command), "\x00", " "))
			}
		}
		if len(left) == 0 {
			return nil
		}
	}
	return left
}

// belongs tells whether a process was begun by the script that works in a folder.
func belongs(process, work string) bool {
	environ, _ := os.ReadFile(filepath.Join(process, "environ"))
	for variable := range strings.SplitSeq(string(environ), "\x00") {
		if variable == marker+"="+work {
			return true
		}
	}
	cwd, _ := os.Readlink(filepath.Join(process, "cwd"))
	return cwd == work || strings.HasPrefix(cwd, work+"/")
}

// pause is the time between two looks.
func pause() { <-time.After(5 * time.Millisecond) }
