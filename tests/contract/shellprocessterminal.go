package contract

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

var shellTerminals = map[string]func(*testing.T, ports.Shells){
	"a terminal is all three":             shellTerminal,
	"a terminal's size":                   shellSize,
	"sizes from many sides":               shellSizes,
	"no terminal has no size":             shellNoSize,
	"a terminal's own doings":             shellCooked,
	"interrupts":                          shellInterrupt,
	"jobs":                                shellJobs,
	"a terminal that is opened again":     shellReopened,
	"closing a terminal's input hangs up": shellHangUp,
	"a hang-up of what is stopped":        shellHangUpStopped,
	"a hang-up spares who has left":       shellHangUpLeft,
	"a hang-up that is ignored":           shellHangUpIgnored,
	"an interactive shell":                shellInteractive,
}

func itoa(n int) string { return strconv.Itoa(n) }

func shellTerminal(t *testing.T, shells ports.Shells) {
	const script = `test -t 0 && test -t 1 && test -t 2 && echo terminal
		t=$(tty); test "$(readlink /proc/$$/fd/1)" = $t && test "$(readlink /proc/$$/fd/2)" = $t && echo one
		(: </dev/tty) && echo controlling
		echo error >&2`
	process := startShell(t, shells, inTerminal(shell(t, script)))
	if process.ErrOutput() != nil {
		t.Error("it has two outputs")
	}
	if got, want := readAll(t, process), "terminal\r\none\r\ncontrolling\r\nerror\r\n"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	process = startShell(t, shells, shell(t, `test -t 0 || test -t 1 || test -t 2 || (: </dev/tty) 2>/dev/null || echo none`))
	wantLine(t, process, "none")
}

func shellSize(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, `trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done`)))
	wantLine(t, process, "24 80")
	for _, size := range []ports.TerminalSize{{Columns: 132, Rows: 50}, {Columns: 65535, Rows: 1}, {Columns: 80, Rows: 24}} {
		if err := process.SetSize(size); err != nil {
			t.Fatal(err)
		}
		wantLine(t, process, itoa(int(size.Rows))+" "+itoa(int(size.Columns))) // by the signal alone
	}
	killTree(t, context.Background(), process, 0)
	if err := process.SetSize(ports.TerminalSize{Columns: 1, Rows: 1}); err != nil {
		t.Errorf("of a terminal whose command has ended: %v", err)
	}
	if err := process.Close(); err != nil {
		t.Error(err)
	}
	if err := process.SetSize(ports.TerminalSize{Columns: 1, Rows: 1}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("of a terminal that is closed: %v", err)
	}
}

func shellSizes(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, `echo $$; sleep 1000; :`)))
	readPID(t, process)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := range 50 {
				err := process.SetSize(ports.TerminalSize{Columns: uint16(n + 1), Rows: uint16(i + 1)})
				if err != nil && !errors.Is(err, os.ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() { _ = process.Stdin().Close() })
	all.Go(func() { _ = process.Close() })
	all.Wait()
}

func shellNoSize(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, shell(t, "exit"))
	if err := process.SetSize(ports.TerminalSize{Columns: 80, Rows: 24}); !errors.Is(err, domain.ErrFeatureNotSupported) {
		t.Errorf("SetSize: %v", err)
	}
}

// shellCooked: a terminal echoes, takes lines, and ends its input at a character.
func shellCooked(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, `echo ready; sed 's/^/got /'; exit 3`)))
	wantLine(t, process, "ready")
	send(t, process, "one\rtwx\x7fo\r")
	if got, want := readLine(t, process), "one\r"; got != want {
		t.Errorf("the echo is %q, want %q", got, want)
	}
	send(t, process, "\x04")
	if got := readAll(t, process); !strings.Contains(got, "got one\r\n") || !strings.Contains(got, "got two\r\n") {
		t.Errorf("it says %q", got)
	}
	wantReport(t, process, domain.Report{ExitCode: 3, Reason: domain.ReasonExited})
}

func shellInterrupt(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, "echo ready; exec sleep 1000")))
	wantLine(t, process, "ready")
	send(t, process, "\x03")
	wantReport(t, process, domain.Report{ExitCode: 130, Signal: "SIGINT", Reason: domain.ReasonSignaled})
	if got := readAll(t, process); got != "^C" {
		t.Errorf("it shows %q", got)
	}
}

func shellJobs(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, `set -m; sh -c 'read line; echo "job has $line"' & fg >/dev/null; echo "then $?"`)))
	send(t, process, "it\n")
	got := readAll(t, process)
	if !strings.Contains(got, "job has it\r\nthen 0\r\n") {
		t.Errorf("it says %q", got)
	}
}

// shellReopened: while a command has nothing of its terminal open, that hasn't ended.
func shellReopened(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, `echo first; exec </dev/null >/dev/null 2>&1; sleep 0.3; echo again >/dev/tty; exec </dev/tty; read line; exit 9`)))
	wantLine(t, process, "first")
	wantLine(t, process, "again")
	send(t, process, "go\n")
	wantReport(t, process, domain.Report{ExitCode: 9, Reason: domain.ReasonExited})
}

func shellHangUp(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, "sleep 1000 & echo $!; echo $$; exec sleep 1000")))
	pids := readPIDs(t, process, 2)
	if err := process.Stdin().Close(); err != nil {
		t.Error(err)
	}
	wantReport(t, process, domain.Report{ExitCode: 129, Signal: "SIGHUP", Reason: domain.ReasonSignaled})
	if got := readAll(t, process); got != "" {
		t.Errorf("it shows %q", got)
	}
	if !within(func() bool { return !alive(pids[0]) && !alive(pids[1]) }) {
		t.Error("something of the session is alive")
	}
}

func shellHangUpStopped(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, "echo $$; kill -STOP $$; sleep 1000; :")))
	pid := readPID(t, process)
	if !within(func() bool { return statFields(pid)[0] == "T" }) {
		t.Fatal("it isn't stopped")
	}
	if err := process.Stdin().Close(); err != nil {
		t.Error(err)
	}
	wantReport(t, process, domain.Report{ExitCode: 129, Signal: "SIGHUP", Reason: domain.ReasonSignaled})
}

// shellHangUpLeft: of two signals that are there at once a shell tells the lower first, so SIGTERM alone
// shows that there has been no SIGHUP.
func shellHangUpLeft(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, `
		setsid sh -c 'trap "echo hung up" HUP; trap "echo asked" TERM; echo $$; while :; do sleep 0.05; done' & sleep 1000; :`)))
	child := readPID(t, process)
	if err := process.Stdin().Close(); err != nil {
		t.Error(err)
	}
	found, err := os.FindProcess(child)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Release()
	if err := found.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantLine(t, process, "asked")
	wantReport(t, process, domain.Report{ExitCode: 129, Signal: "SIGHUP", Reason: domain.ReasonSignaled})
	killTree(t, context.Background(), process, 0, child)
}

func shellHangUpIgnored(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, inTerminal(shell(t, "trap 'echo hung up' HUP; echo ready; while :; do sleep 0.05; done")))
	wantLine(t, process, "ready")
	if err := process.Stdin().Close(); err != nil {
		t.Error(err)
	}
	for line := ""; !strings.Contains(line, "hung up"); { // beside what the shell says of its sleep
		line = readLine(t, process)
	}
	killTree(t, context.Background(), process, processPatience)
	wantReport(t, process, byTerm)
}

// shellInteractive: with a prompt, and with control of its jobs.
func shellInteractive(t *testing.T, shells ports.Shells) {
	spec := inTerminal(shell(t, ""))
	spec.Command = []string{"/bin/sh", "-i"}
	spec.Env = append(spec.Env, "PS1=ok> ", "TERM=dumb")
	process := startShell(t, shells, spec)
	send(t, process, "sleep 1000 &\nkill -KILL %1; wait; echo $((6*7)); exit 3\n")
	got := readAll(t, process)
	if !strings.Contains(got, "ok> ") || !strings.Contains(got, "42\r\n") || strings.Contains(got, "job control") {
		t.Errorf("it shows %q", got)
	}
	wantReport(t, process, domain.Report{ExitCode: 3, Reason: domain.ReasonExited})
}
