package contract

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Shells is the suite of ports.Shells, for Unix systems with the usual commands. Each of its tests ends
// with nothing left: no process, no goroutine, no open file.
func Shells(t *testing.T, newShells func(t *testing.T) ports.Shells) {
	for _, group := range []map[string]func(*testing.T, ports.Shells){
		shellBasics, shellStreams, shellInputs, shellTerminals,
	} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				nothingLeft(t)
				test(t, newShells(t))
			})
		}
	}
}

var shellBasics = map[string]func(*testing.T, ports.Shells){
	"exit codes and signals":                  shellReports,
	"shells that can't start":                 shellStartErrors,
	"where it runs, and with what":            shellPlace,
	"another user":                            shellUser,
	"terminate asks one":                      shellTerminate,
	"a kill ends those who left":              shellKillLeavers,
	"close ends everything":                   shellClose,
	"a closed shell was killed, and not hung": shellCloseReport,
}

func startShell(t *testing.T, shells ports.Shells, spec ports.ProcessSpec) ports.ShellProcess {
	t.Helper()
	process, err := shells.StartShell(spec)
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

// stream reads one of a shell's streams to its end, beside the test. What doesn't end in time is closed.
func stream(process ports.ShellProcess, from io.Reader) (all func() (string, error)) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		watch := time.AfterFunc(processPatience, func() { process.Close() })
		text, err := io.ReadAll(from)
		if !watch.Stop() {
			err = errors.Join(errors.New("it didn't end"), err)
		}
		done <- result{string(text), err}
	}()
	return func() (string, error) {
		r := <-done
		return r.text, r.err
	}
}

// readBoth reads both outputs to their ends.
func readBoth(t *testing.T, process ports.ShellProcess) (out, errOut string) {
	t.Helper()
	first, second := stream(process, process.Output()), stream(process, process.ErrOutput())
	out, err := first()
	errOut, secondErr := second()
	if err := errors.Join(err, secondErr); err != nil {
		t.Errorf("the outputs: %v, after %.1000q and %.1000q", err, out, errOut)
	}
	return out, errOut
}

// wantLine reads a line, of a terminal's or a pipe's.
func wantLine(t *testing.T, process ports.ShellProcess, want string) {
	t.Helper()
	if got := strings.TrimSuffix(readLine(t, process), "\r"); got != want {
		t.Fatalf("it says %q, want %q", got, want)
	}
}

func send(t *testing.T, process ports.ShellProcess, text string) {
	t.Helper()
	if n, err := io.WriteString(process.Stdin(), text); n != len(text) || err != nil {
		t.Fatalf("%d of %d bytes were written, %v", n, len(text), err)
	}
}

func shellReports(t *testing.T, shells ports.Shells) {
	bothWays(t, shell(t, ""), func(kind string, spec ports.ProcessSpec) {
		for script, want := range map[string]domain.Report{
			"exit 0":                  {Reason: domain.ReasonExited},
			"exit 44":                 {ExitCode: 44, Reason: domain.ReasonExited},
			"kill -KILL $$; sleep 99": {ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonSignaled},
			"kill -HUP $$; sleep 99":  {ExitCode: 129, Signal: "SIGHUP", Reason: domain.ReasonSignaled},
		} {
			spec.Command = []string{"/bin/sh", "-c", script}
			process := startShell(t, shells, spec)
			wantReport(t, process, want)
			// Its input is still open. That is nobody's reason to wait.
			if got := readAll(t, process); got != "" {
				t.Errorf("%s, %s: it says %q", kind, script, got)
			}
		}
	})
}

func shellStartErrors(t *testing.T, shells ports.Shells) {
	folder := t.TempDir()
	bothWays(t, shell(t, "exit"), func(kind string, spec ports.ProcessSpec) {
		for name, test := range map[string]struct {
			change func(*ports.ProcessSpec)
			code   int
			says   string
		}{
			"no command":     {func(s *ports.ProcessSpec) { s.Command = nil }, 127, "the command is empty"},
			"not on PATH":    {func(s *ports.ProcessSpec) { s.Command = []string{"no-such-command"} }, 127, "not found on PATH"},
			"no such file":   {func(s *ports.ProcessSpec) { s.Command = []string{folder + "/none"} }, 127, "does not exist"},
			"a folder":       {func(s *ports.ProcessSpec) { s.Command = []string{folder} }, 126, "folder"},
			"no program":     {func(s *ports.ProcessSpec) { s.Command = []string{garbage(t, folder)} }, 126, "script"},
			"no such folder": {func(s *ports.ProcessSpec) { s.Dir = folder + "/none" }, 126, "does not exist"},
			"no such user":   {func(s *ports.ProcessSpec) { s.User = "no-such-user" }, 126, `"no-such-user" does not exist`},
		} {
			spec := spec
			test.change(&spec)
			process, err := shells.StartShell(spec)
			if err == nil {
				process.Close()
				t.Errorf("%s, %s: it started", kind, name)
				continue
			}
			startError := (*ports.StartError)(nil)
			if !errors.As(err, &startError) || startError.ExitCode != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s, %s: want exit code %d with %q: %#v, %v", kind, name, test.code, test.says, startError, err)
			}
		}
	})
}

// garbage is a file that the system itself refuses to run, when all else has been prepared.
func garbage(t *testing.T, folder string) string {
	t.Helper()
	path := folder + "/garbage"
	if err := os.WriteFile(path, []byte("\x01\x02\x03\x04"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func shellPlace(t *testing.T, shells ports.Shells) {
	folder := t.TempDir()
	bothWays(t, shell(t, `echo "$0 $A"; pwd -P`), func(kind string, spec ports.ProcessSpec) {
		spec.Command = append(spec.Command, "\xffname")
		spec.Env = append(spec.Env, "A=first", "A=\xfe second")
		spec.Dir = folder
		process := startShell(t, shells, spec)
		wantLine(t, process, "\xffname \xfe second")
		if got := strings.TrimSpace(readAll(t, process)); !strings.HasSuffix(got, folder) {
			t.Errorf("%s: it runs in %q, want %q", kind, got, folder)
		}
	})
}

// shellUser needs root to see shells run as somebody else. Anybody else is told that it does.
func shellUser(t *testing.T, shells ports.Shells) {
	const script = `
		id -u; id -g
		echo out >/dev/stdout; echo error >/dev/stderr; cat /dev/stdin
		! test -t 0 || { echo all >/dev/tty; stat -c %u $(tty); }`
	if os.Geteuid() != 0 {
		spec := shell(t, script)
		spec.User = strconv.Itoa(os.Geteuid() + 1)
		startError := (*ports.StartError)(nil)
		if _, err := shells.StartShell(spec); !errors.As(err, &startError) || startError.ExitCode != 126 {
			t.Errorf("user %s: %v", spec.User, err)
		}
		return
	}
	spec := shell(t, script)
	spec.User = "54321:54322"
	process := startShell(t, shells, spec)
	send(t, process, "in\n")
	if err := process.Stdin().Close(); err != nil {
		t.Error(err)
	}
	if out, errOut := readBoth(t, process); out != "54321\n54322\nout\nin\n" || errOut != "error\n" {
		t.Errorf("it says %q and %q", out, errOut)
	}
	process = startShell(t, shells, inTerminal(spec))
	for _, line := range []string{"54321", "54322", "out", "error"} {
		wantLine(t, process, line)
	}
	send(t, process, "\x04")
	wantLine(t, process, "all")
	wantLine(t, process, "54321")
}

func shellTerminate(t *testing.T, shells ports.Shells) {
	bothWays(t, shell(t, `trap 'echo asked; exit 7' TERM; setsid `+ready+` & wait; sleep 1000; :`), func(kind string, spec ports.ProcessSpec) {
		process := startShell(t, shells, spec)
		child := readPID(t, process)
		if err := process.Terminate(); err != nil {
			t.Fatal(err)
		}
		wantReport(t, process, domain.Report{ExitCode: 7, Reason: domain.ReasonExited})
		wantLine(t, process, "asked")
		if !alive(child) {
			t.Errorf("%s: the child ended with the command", kind)
		}
	})
}

func shellKillLeavers(t *testing.T, shells ports.Shells) {
	bothWays(t, shell(t, leavers+"sleep 1000; :"), func(_ string, spec ports.ProcessSpec) {
		process := startShell(t, shells, spec)
		pids := readPIDs(t, process, 4)
		ctx, cancel := untilReaped(process)
		defer cancel()
		killTree(t, ctx, process, processPatience, pids...)
		wantReport(t, process, byTerm)
		readAll(t, process)
	})
}

// shellClose: with a read of each output under way, and a write.
func shellClose(t *testing.T, shells ports.Shells) {
	bothWays(t, shell(t, `test -t 0 && stty raw -echo; `+leavers+`sleep 1000; :`), func(kind string, spec ports.ProcessSpec) {
		process := startShell(t, shells, spec)
		pids := readPIDs(t, process, 4)
		outputs := []func() (string, error){stream(process, process.Output())}
		if from := process.ErrOutput(); from != nil {
			outputs = append(outputs, stream(process, from))
		}
		written := fill(process)
		for range 2 {
			if err := process.Close(); err != nil {
				t.Errorf("%s: Close: %v", kind, err)
			}
		}
		for _, pid := range pids {
			if alive(pid) {
				t.Errorf("%s: process %d is alive after Close", kind, pid)
			}
		}
		for i, all := range outputs {
			if text, err := all(); err != nil {
				t.Errorf("%s: output %d ended with %q, %v", kind, i, text, err)
			}
		}
		wantFreed(t, kind, written)
		if n, err := process.Output().Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("%s: read after Close: %d, %v", kind, n, err)
		}
		if n, err := process.Stdin().Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: write after Close: %d, %v", kind, n, err)
		}
		if err := process.Stdin().Close(); err != nil {
			t.Errorf("%s: close the input after Close: %v", kind, err)
		}
	})
}

// shellCloseReport: what is closed before the tree is killed may end it, with a report of its own.
func shellCloseReport(t *testing.T, shells ports.Shells) {
	bothWays(t, shell(t, `echo on; while :; do echo on; done`), func(_ string, spec ports.ProcessSpec) {
		for range 10 {
			process := startShell(t, shells, spec)
			wantLine(t, process, "on")
			if err := process.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			wantReport(t, process, byKill)
		}
	})
}
