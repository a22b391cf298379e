//go:build linux

package endtoend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// inGuest starts a guest whose task waits for the test's end, so that there are shells.
func inGuest(t *testing.T) *host.Task {
	t.Helper()
	return start(t, job(newMachine(t, t.TempDir(), "tty: false"), &sink{}, "sleep", "1000"))
}

func openShell(t *testing.T, task *host.Task, spec domain.ShellSpec) ports.ShellSession {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	shell, err := task.OpenShell(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	return shell
}

func sh(script string, tty bool) domain.ShellSpec {
	return domain.ShellSpec{Command: []string{"sh", "-c", script}, TTY: tty}
}

// shellEnd reads a shell to its end.
func shellEnd(t *testing.T, shell ports.ShellSession) (out, errOut string, report domain.Report) {
	t.Helper()
	var reading sync.WaitGroup
	for text, pipe := range map[*string]io.Reader{&out: shell.StdoutPipe(), &errOut: shell.StderrPipe()} {
		reading.Go(func() {
			read, err := io.ReadAll(pipe)
			if err != nil {
				t.Error(err)
			}
			*text = string(read)
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result, err := shell.Result(ctx)
	if err != nil || result.Report == nil || result.Success != result.Report.Succeeded() {
		_ = shell.Abort()
		t.Fatalf("the result is %+v, %v", result, err)
	}
	reading.Wait()
	return out, errOut, *result.Report
}

// The contract, with the real guest-tools and real processes.
func TestShellContract(t *testing.T) {
	task := inGuest(t)
	contract.Shell(t, func(t *testing.T) contract.ShellSetup {
		return contract.ShellSetup{
			Open:    func(t *testing.T, spec domain.ShellSpec) ports.ShellSession { return openShell(t, task, spec) },
			Reports: true,
		}
	})
}

func TestShellExits(t *testing.T) {
	task := inGuest(t)
	for _, tty := range []bool{false, true} {
		for script, want := range map[string]domain.Report{
			"exit 0":                 {Reason: domain.ReasonExited},
			"exit 44":                {ExitCode: 44, Reason: domain.ReasonExited},
			"exec >&- 2>&-; exit 5":  {ExitCode: 5, Reason: domain.ReasonExited},
			"kill -KILL $$; sleep 9": {ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonSignaled},
			"kill -HUP $$; sleep 9":  {ExitCode: 129, Signal: "SIGHUP", Reason: domain.ReasonSignaled},
		} {
			if _, _, report := shellEnd(t, openShell(t, task, sh(script, tty))); report != want {
				t.Errorf("%s, terminal %v: %s", script, tty, report)
			}
		}
	}
}

// A child that holds the streams open held the shell open, too.
func TestFault06AShellEndsThoughAChildGoesOn(t *testing.T) {
	task := inGuest(t)
	for _, tty := range []bool{false, true} {
		spec := sh("sleep 1000 & exit 3", tty)
		run := fmt.Sprint(t.TempDir(), tty)
		spec.Env = map[string]string{marker: run}
		began := time.Now()
		_, _, report := shellEnd(t, openShell(t, task, spec))
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("terminal %v: it took %s", tty, took)
		}
		if report != (domain.Report{ExitCode: 3, Reason: domain.ReasonExited}) {
			t.Errorf("terminal %v: %s", tty, report)
		}
		if left := processesOf(run); len(left) > 0 {
			t.Errorf("terminal %v: processes are left: %v", tty, left)
		}
	}
}

// A child that had left the process group, or the session, survived an abort.
func TestFault10AnAbortedShellsWholeTreeGoes(t *testing.T) {
	task := inGuest(t)
	for _, tty := range []bool{false, true} {
		const script = "trap '' HUP TERM INT; sleep 1000 & setsid sleep 1000 & setsid sh -c 'sleep 1000 & exec sleep 1000' & echo ready; wait"
		spec := sh(script, tty)
		run := fmt.Sprint(t.TempDir(), tty)
		spec.Env = map[string]string{marker: run}
		shell := openShell(t, task, spec)
		if _, err := io.ReadFull(shell.StdoutPipe(), make([]byte, len("ready"))); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "the tree is whole", func() bool { return len(processesOf(run)) >= 5 })
		if err := shell.Abort(); err != nil {
			t.Error(err)
		}
		eventually(t, 6*time.Second, "the tree is gone", func() bool { return len(processesOf(run)) == 0 })
		if _, err := shell.Wait(); !errors.Is(err, domain.ErrShellAborted) {
			t.Errorf("Wait: %v", err)
		}
	}
}

// What can't be started is an exit report with a line for who looks, and the next shell opens as ever.
func TestFault05AShellThatCantStart(t *testing.T) {
	task := inGuest(t)
	for name, test := range map[string]struct {
		spec domain.ShellSpec
		code int
		says string
	}{
		"no command": {domain.ShellSpec{Command: []string{"no-such-command"}}, 127, "no-such-command"},
		"no user":    {domain.ShellSpec{Command: []string{"true"}, User: "no-such-user"}, 126, "no-such-user"},
		"no folder":  {domain.ShellSpec{Command: []string{"true"}, Dir: "/no/such/folder"}, 126, "/no/such/folder"},
	} {
		for _, tty := range []bool{false, true} {
			test.spec.TTY = tty
			out, errOut, report := shellEnd(t, openShell(t, task, test.spec))
			told, silent := errOut, out
			if tty {
				told, silent = out, errOut
			}
			if report.ExitCode != test.code || report.Reason != domain.ReasonStartFailed {
				t.Errorf("%s: %s", name, report)
			}
			if !strings.Contains(told, test.says) || silent != "" || strings.HasSuffix(told, "\r\n") != tty {
				t.Errorf("%s, terminal %v: it says %q, and %q", name, tty, told, silent)
			}
		}
	}
}

// All that a shell can be told.
func TestShellSpec(t *testing.T) {
	task := inGuest(t)
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	spec := sh(`echo "$A"; pwd -P; stty size; test -t 2 && echo "$TERM"`, true)
	spec.Env = map[string]string{"A": "a value\twith = in it"}
	spec.Dir, spec.Columns, spec.Rows = folder, 132, 50
	out, _, report := shellEnd(t, openShell(t, task, spec))
	want := "a value\twith = in it\r\n" + folder + "\r\n50 132\r\nxterm-256color\r\n"
	if out != want || !report.Succeeded() {
		t.Errorf("it says %q, want %q; %s", out, want, report)
	}

	spec = sh("id -u", false)
	spec.Dir, spec.User = "/", fmt.Sprint(os.Geteuid())
	if os.Geteuid() == 0 {
		spec.User = "54321"
	}
	if out, errOut, _ := shellEnd(t, openShell(t, task, spec)); out != spec.User+"\n" {
		t.Errorf("user %s: %q, %q", spec.User, out, errOut)
	}

	spec = sh("cat; sleep 1000", false)
	spec.NoStdin, spec.Timeout = true, time.Second
	began := time.Now()
	_, _, report = shellEnd(t, openShell(t, task, spec))
	if took := time.Since(began); report.Reason != domain.ReasonTimeout || took < time.Second || took > 10*time.Second {
		t.Errorf("with a time-out of a second it took %s: %s", took, report)
	}

	shell := openShell(t, task, domain.ShellSpec{}) // the default one
	if _, err := io.WriteString(shell.StdinPipe(), "echo hello; exit 7\n"); err != nil {
		t.Error(err)
	}
	if out, errOut, report := shellEnd(t, shell); out != "hello\n" || report.ExitCode != 7 {
		t.Errorf("the default shell says %q, %q: %s", out, errOut, report)
	}
}

// Shells leave nothing, however many there were, one after the other or at once.
func TestManyShellsLeaveNothing(t *testing.T) {
	sequence, crowd := 100, 50
	if *contract.Long {
		sequence, crowd = 1000, 200
	}
	task := inGuest(t)
	run := t.TempDir()
	one := func(i int) {
		spec := sh("cat; exit 3", i%2 == 1)
		if spec.TTY {
			spec = sh("echo hello; exit 3", true)
		}
		spec.Env = map[string]string{marker: run}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		shell, err := task.OpenShell(ctx, spec)
		if err != nil {
			t.Error(err)
			return
		}
		if !spec.TTY {
			io.WriteString(shell.StdinPipe(), "hello\n")
			shell.StdinPipe().Close()
		}
		out, err := io.ReadAll(shell.StdoutPipe())
		if strings.TrimSpace(string(out)) != "hello" || err != nil {
			t.Errorf("shell %d says %q, %v", i, out, err)
		}
		result, err := shell.Result(ctx)
		if err != nil || result.Report == nil || result.Report.ExitCode != 3 {
			t.Errorf("shell %d: %+v, %v", i, result, err)
		}
	}
	one(0)
	one(1)
	tools := guestTools(t)
	ours, theirs := len(entries(t, "/proc/self/fd")), len(entries(t, tools+"/fd"))
	for i := range sequence {
		one(i)
	}
	var all sync.WaitGroup
	for i := range crowd {
		all.Go(func() { one(i) })
	}
	all.Wait()
	eventually(t, 10*time.Second, "no process is left", func() bool { return len(processesOf(run)) == 0 })
	const idle = 4 // connections that either end keeps for the next request
	eventually(t, 10*time.Second, "no more files are open than before", func() bool {
		return len(entries(t, "/proc/self/fd")) <= ours+idle && len(entries(t, tools+"/fd")) <= theirs+idle
	})
}

// guestTools is the folder in /proc of the one guest that runs.
func guestTools(t *testing.T) string {
	t.Helper()
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == tool("guest-tools") {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(link), "cmdline"))
			if !strings.Contains(string(command), "tree-shim") {
				return filepath.Dir(link)
			}
		}
	}
	t.Fatal("there is no guest")
	return ""
}
