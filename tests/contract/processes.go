package contract

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// processPatience bounds every wait of the suite.
const processPatience = 60 * time.Second

// Processes is the suite of ports.Processes, for Unix systems with the usual commands. Each of its tests
// ends with nothing left: no process, no goroutine, no open file.
func Processes(t *testing.T, newProcesses func(t *testing.T) ports.Processes) {
	for _, group := range []map[string]func(*testing.T, ports.Processes){
		processBasics, processOutputs, processKills,
	} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				nothingLeft(t)
				test(t, newProcesses(t))
			})
		}
	}
}

var processBasics = map[string]func(*testing.T, ports.Processes){
	"exit codes":                  processExitCodes,
	"signals":                     processSignals,
	"commands that can't start":   processStartErrors,
	"where commands are found":    processLookup,
	"the environment is all":      processEnvironment,
	"another user":                processUser,
	"waiting ends with its ctx":   processWaitContext,
	"terminate asks one":          processTerminate,
	"close ends everything":       processClose,
	"close frees a blocked read":  processCloseRead,
	"all at once from many sides": processConcurrent,
}

const searchPath = "/usr/local/bin:/usr/bin:/bin"

// shell is a script that /bin/sh runs, with a mark in its environment by which nothingLeft finds it.
func shell(t *testing.T, script string) ports.ProcessSpec {
	return ports.ProcessSpec{
		Command: []string{"/bin/sh", "-c", script},
		Env:     []string{"PATH=" + searchPath, markOf(t)},
	}
}

func inTerminal(spec ports.ProcessSpec) ports.ProcessSpec {
	spec.Terminal = &ports.TerminalSize{Columns: 80, Rows: 24}
	return spec
}

func startProcess(t *testing.T, processes ports.Processes, spec ports.ProcessSpec) ports.Process {
	t.Helper()
	process, err := processes.Start(spec)
	if err != nil {
		t.Fatalf("start %q: %v", spec.Command, err)
	}
	t.Cleanup(func() {
		if err := process.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return process
}

func waitReport(t *testing.T, process ports.Process) domain.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), processPatience)
	defer cancel()
	report, err := process.Wait(ctx)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	return report
}

// readAll reads the output to its end.
func readAll(t *testing.T, process ports.Process) string {
	t.Helper()
	text, ok := readWithin(process, processPatience)
	if !ok {
		t.Fatalf("the output did not end, after %d bytes: %.1000q", len(text), text)
	}
	return text
}

// readWithin is readAll off the test's own goroutine. What doesn't end in time is closed.
func readWithin(process ports.Process, patience time.Duration) (text string, ended bool) {
	watch := time.AfterFunc(patience, func() { process.Close() })
	all, err := io.ReadAll(process.Output())
	return string(all), watch.Stop() && (err == nil || errors.Is(err, ports.ErrOutputCut))
}

// readLine reads up to a newline, byte by byte: what follows is for the next one.
func readLine(t *testing.T, process ports.Process) string {
	t.Helper()
	watch := time.AfterFunc(processPatience, func() { process.Close() })
	defer watch.Stop()
	var line strings.Builder
	for b := make([]byte, 1); ; {
		n, err := process.Output().Read(b)
		if n > 0 && b[0] == '\n' {
			return line.String()
		}
		if err != nil {
			t.Fatalf("the output ended amid a line, after %q: %v", line.String(), err)
		}
		line.Write(b[:n])
	}
}

func wantReport(t *testing.T, process ports.Process, want domain.Report) {
	t.Helper()
	if diff := cmp.Diff(want, waitReport(t, process)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func processExitCodes(t *testing.T, processes ports.Processes) {
	for _, code := range []string{"0", "1", "3", "126", "127", "143", "255"} {
		process := startProcess(t, processes, shell(t, "exit "+code))
		report := waitReport(t, process)
		if report.Reason != domain.ReasonExited || report.Signal != "" || report.Succeeded() != (code == "0") {
			t.Errorf("exit %s: %+v", code, report)
		}
		if err := report.Check(); err != nil {
			t.Error(err)
		}
		if again := waitReport(t, process); again != report {
			t.Errorf("asked again, it is %+v, it was %+v", again, report)
		}
	}
}

func processSignals(t *testing.T, processes ports.Processes) {
	for number, name := range map[int]string{1: "SIGHUP", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"} {
		process := startProcess(t, processes, shell(t, "kill -"+strings.TrimPrefix(name, "SIG")+" $$; sleep 1000"))
		wantReport(t, process, domain.Report{ExitCode: domain.ExitSignaled(number), Signal: name, Reason: domain.ReasonSignaled})
	}
	if runtime.GOOS == "linux" {
		process := startProcess(t, processes, shell(t, "kill -40 $$; sleep 1000"))
		wantReport(t, process, domain.Report{ExitCode: domain.ExitSignaled(40), Signal: "SIGRTMIN+6", Reason: domain.ReasonSignaled})
	}
}

func processStartErrors(t *testing.T, processes ports.Processes) {
	folder := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := file("plain", "#!/bin/sh\n", 0o644)
	command := func(args ...string) ports.ProcessSpec {
		return ports.ProcessSpec{Command: args, Env: []string{"PATH=/bin:" + folder}}
	}
	in := func(dir string) ports.ProcessSpec {
		return ports.ProcessSpec{Command: []string{"/bin/sh", "-c", "exit"}, Dir: dir}
	}
	as := func(user string) ports.ProcessSpec {
		return ports.ProcessSpec{Command: []string{"/bin/sh", "-c", "exit"}, User: user}
	}
	for name, test := range map[string]struct {
		spec ports.ProcessSpec
		code int
		says string
	}{
		"no command":              {command(), 127, "the command is empty"},
		"no name":                 {command("", "x"), 127, "the command is empty"},
		"not on PATH":             {command("no-such-command"), 127, `"no-such-command" not found on PATH "/bin:` + folder + `"`},
		"no such file":            {command(folder + "/none"), 127, "does not exist"},
		"no such relative file":   {command("./none"), 127, "does not exist"},
		"a folder":                {command(folder), 126, "folder"},
		"not executable":          {command(plain), 126, "not executable"},
		"not executable, on PATH": {command("plain"), 126, "not executable"},
		"no interpreter":          {command(file("bad", "#!/no/such/interpreter\n", 0o755)), 126, "interpreter"},
		"no program":              {command(file("garbage", "\x01\x02\x03\x04", 0o755)), 126, "script"},
		"NUL":                     {command("/bin/sh", "a\x00b"), 126, "NUL"},
		"NUL in the environment":  {ports.ProcessSpec{Command: []string{"/bin/sh"}, Env: []string{"A=b\x00c"}}, 126, "NUL"},
		"no such folder":          {in(folder + "/none"), 126, "does not exist"},
		"a file for a folder":     {in(plain), 126, "not a folder"},
		"no such user":            {as("no-such-user"), 126, `"no-such-user" does not exist`},
		"no such group":           {as("0:staff"), 126, "must be a number"},
	} {
		for _, spec := range []ports.ProcessSpec{test.spec, inTerminal(test.spec)} {
			process, err := processes.Start(spec)
			if err == nil {
				process.Close()
				t.Errorf("%s: it started", name)
				continue
			}
			startError := (*ports.StartError)(nil)
			if !errors.As(err, &startError) {
				t.Errorf("%s: %T is no StartError: %v", name, err, err)
				continue
			}
			if startError.ExitCode != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: exit code %d, want %d with %q: %v", name, startError.ExitCode, test.code, test.says, err)
			}
		}
	}
}

func processLookup(t *testing.T, processes ports.Processes) {
	folder := t.TempDir()
	for _, path := range []string{"first/tool", "second/tool", "tool"} {
		path = filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho $0 is in $(pwd)\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		command string
		path    []string
		dir     string
		want    string
	}{
		"the first on PATH":      {"tool", []string{"PATH=/none:" + folder + "/first:" + folder + "/second:/bin"}, "/", folder + "/first/tool is in /"},
		"the later PATH":         {"tool", []string{"PATH=" + folder + "/first", "PATH=" + folder + "/second:/bin"}, "/", folder + "/second/tool is in /"},
		"PATH relative to Dir":   {"tool", []string{"PATH=second:/bin"}, folder, "second/tool is in " + folder},
		"an empty part of PATH":  {"tool", []string{"PATH=:/bin"}, folder, "tool is in " + folder},
		"a path relative to Dir": {"first/tool", []string{"PATH=/bin"}, folder, "first/tool is in " + folder},
		"an absolute path":       {folder + "/tool", []string{"PATH=/bin"}, "/", folder + "/tool is in /"},
	} {
		process := startProcess(t, processes, ports.ProcessSpec{Command: []string{test.command}, Env: test.path, Dir: test.dir})
		if got := strings.TrimSpace(readAll(t, process)); strings.TrimPrefix(got, "./") != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func processEnvironment(t *testing.T, processes ports.Processes) {
	t.Setenv("METASERVICE_SECRET", "of the one who starts")
	process := startProcess(t, processes, ports.ProcessSpec{Command: []string{"/usr/bin/env"}})
	if got := readAll(t, process); got != "" {
		t.Errorf("a command without an environment has %q", got)
	}
	process = startProcess(t, processes, ports.ProcessSpec{Command: []string{"env"}, Env: []string{
		"A=first", "PATH=" + searchPath, "B=\xff\xfe not UTF-8", "A=second", "C=",
	}})
	want := "PATH=" + searchPath + "\nB=\xff\xfe not UTF-8\nA=second\nC=\n"
	if got := readAll(t, process); got != want {
		t.Errorf("the environment is %q, want %q", got, want)
	}
	process = startProcess(t, processes, ports.ProcessSpec{Command: []string{"/bin/sh", "-c", `printf "%s" "$0"`, "\xffarg\n'"}})
	if got := readAll(t, process); got != "\xffarg\n'" {
		t.Errorf("the argument arrived as %q", got)
	}
}

// processUser needs root to see commands run as somebody else. Anybody else is told that it does.
func processUser(t *testing.T, processes ports.Processes) {
	const script = `echo $(id -u) $(id -g) $(id -G); echo by name >/dev/stderr`
	for user, want := range map[string]string{
		"65534":       "65534 65534 65534",
		"nobody":      "65534 65534 65534",
		"65534:65533": "65534 65533 65533",
		"54321":       "54321 54321 54321",
	} {
		for _, spec := range []ports.ProcessSpec{shell(t, script), inTerminal(shell(t, script))} {
			spec.User = user
			if own := strconv.Itoa(os.Geteuid()); os.Geteuid() != 0 {
				if user == own || user == "nobody" {
					continue // which may be ourselves
				}
				startError := (*ports.StartError)(nil)
				if _, err := processes.Start(spec); !errors.As(err, &startError) || startError.ExitCode != 126 {
					t.Errorf("user %s: %v", user, err)
				}
				continue
			}
			process := startProcess(t, processes, spec)
			if got := readAll(t, process); got != want+"\nby name\n" {
				t.Errorf("user %s: %q, want %q", user, got, want)
			}
		}
	}
}

func processWaitContext(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, "sleep 1000"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := process.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
}
