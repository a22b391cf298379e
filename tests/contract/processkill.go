package contract

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

var processKills = map[string]func(*testing.T, ports.Processes){
	"a kill asks first":                   processKillAsks,
	"a kill's report tells the real end":  processKillHandled,
	"a kill ends what ignores it":         processKillIgnored,
	"a kill ends those who left":          processKillLeavers,
	"a kill after the command's end":      processKillAfter,
	"a kill in a hurry":                   processKillHurry,
	"a kill loses its patience":           processKillContext,
	"a kill of nothing":                   processKillNothing,
	"a kill of what is stopped":           processKillStopped,
	"a kill of what forks without pause":  processKillForks,
	"a command that its child kills":      processKilledByChild,
	"a task that signals its whole group": processSignalsGroup,
}

var (
	byTerm = domain.Report{ExitCode: 143, Signal: "SIGTERM", Reason: domain.ReasonKilled}
	byKill = domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonKilled}
)

func readPID(t *testing.T, process ports.Process) int {
	t.Helper()
	line := readLine(t, process)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("%q is no pid", line)
	}
	return pid
}

func readPIDs(t *testing.T, process ports.Process, n int) []int {
	t.Helper()
	pids := make([]int, n)
	for i := range pids {
		if pids[i] = readPID(t, process); !alive(pids[i]) {
			t.Fatalf("process %d is not there", pids[i])
		}
	}
	return pids
}

// killTree kills a tree, of which some processes are known, and sees that all are gone when it returns.
func killTree(t *testing.T, ctx context.Context, process ports.Process, grace time.Duration, pids ...int) {
	t.Helper()
	survivors, err := process.Kill(ctx, grace)
	if err != nil || len(survivors) > 0 {
		t.Errorf("Kill: survivors %v, %v", survivors, err)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is alive after Kill", pid)
		}
	}
	if left := markedProcesses(t); len(left) > 0 {
		t.Errorf("processes %v are alive after Kill", left)
	}
}

func processKillAsks(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, "sleep 1000 & echo $$; echo $!; exec sleep 1000"))
	pids := readPIDs(t, process, 2)
	killTree(t, context.Background(), process, processPatience, pids...)
	wantReport(t, process, byTerm)
	if got := readAll(t, process); got != "" {
		t.Errorf("the output ends with %q", got)
	}
}

// ready tells its pid when it is no longer the shell that has been forked, in which a trap of the
// parent's would swallow the signal.
const ready = `sh -c 'echo $$; exec sleep 1000'`

func processKillHandled(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, `trap 'echo bye; exit 3' TERM; `+ready+`; :`))
	pids := readPIDs(t, process, 1)
	killTree(t, context.Background(), process, processPatience, pids...)
	wantReport(t, process, domain.Report{ExitCode: 3, Reason: domain.ReasonKilled})
	if got := readAll(t, process); !strings.Contains(got, "bye\n") {
		t.Errorf("the output ends with %q", got)
	}
}

func processKillIgnored(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, `trap '' TERM; sleep 1000 & echo $$; echo $!; while :; do sleep 1000; done`))
	pids := readPIDs(t, process, 2)
	since := time.Now()
	killTree(t, context.Background(), process, 300*time.Millisecond, pids...)
	if took := time.Since(since); took < 300*time.Millisecond {
		t.Errorf("it was killed after %v, before its grace was over", took)
	}
	wantReport(t, process, byKill)
}

// leavers leave the command's process group and session, lose their parents, and ignore SIGTERM. Each
// tells its pid.
const leavers = `
	setsid sh -c 'echo $$; exec sleep 1000' &
	(setsid sh -c 'echo $$; exec sleep 1000' &)
	(setsid sh -c 'trap "" TERM HUP; echo $$; setsid sh -c "echo \$\$; sleep 1000; :" & sleep 1000; :' &)
`

// untilReaped is a context for the kill of a command that SIGTERM ends, and what it has started doesn't: it
// ends with the command, for on a busy machine that takes its time.
func untilReaped(process interface {
	Wait(context.Context) (domain.Report, error)
}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = process.Wait(ctx)
		cancel()
	}()
	return ctx, cancel
}

func processKillLeavers(t *testing.T, processes ports.Processes) {
	bothWays(t, shell(t, leavers+"sleep 1000; :"), func(_ string, spec ports.ProcessSpec) {
		process := startProcess(t, processes, spec)
		pids := readPIDs(t, process, 4)
		ctx, cancel := untilReaped(process)
		defer cancel()
		killTree(t, ctx, process, processPatience, pids...)
		wantReport(t, process, byTerm)
		readAll(t, process)
	})
}

func processKillAfter(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, leavers+"exit 5"))
	pids := readPIDs(t, process, 4)
	want := domain.Report{ExitCode: 5, Reason: domain.ReasonExited}
	wantReport(t, process, want)
	killTree(t, context.Background(), process, 200*time.Millisecond, pids...)
	wantReport(t, process, want)
}

func processKillHurry(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, leavers+"trap 'exit 0' TERM; sleep 1000; :"))
	pids := readPIDs(t, process, 4)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	killTree(t, ctx, process, time.Hour, pids...)
	wantReport(t, process, byKill)
}

func processKillContext(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, `trap 'echo asked' TERM; while :; do `+ready+`; done`))
	pids := readPIDs(t, process, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	asked := make(chan string, 1)
	go func() {
		buffer := make([]byte, 64)
		n, _ := process.Output().Read(buffer)
		asked <- string(buffer[:n])
		cancel()
	}()
	killTree(t, ctx, process, time.Hour, pids...)
	wantReport(t, process, byKill)
	if got := <-asked; !strings.Contains(got, "asked\n") && !strings.Contains(got, "Terminated") {
		t.Errorf("it was not asked, it said %q", got)
	}
}

func processKillNothing(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, "exit 4"))
	want := domain.Report{ExitCode: 4, Reason: domain.ReasonExited}
	wantReport(t, process, want)
	for range 2 {
		killTree(t, context.Background(), process, time.Hour)
	}
	if err := process.Terminate(); err != nil {
		t.Errorf("Terminate of what has ended: %v", err)
	}
	wantReport(t, process, want)
}

func processKillStopped(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, `echo $$; kill -STOP $$; sleep 1000; :`))
	pids := readPIDs(t, process, 1)
	killTree(t, context.Background(), process, processPatience, pids...)
	wantReport(t, process, byTerm)
}

// processKillForks: what forks faster than it can be listed must be stopped before it is asked, or its
// youngest would never be.
func processKillForks(t *testing.T, processes ports.Processes) {
	const forker = `trap "" TERM; while :; do (setsid sleep 1000 &) ; (setsid true &) ; done`
	process := startProcess(t, processes, shell(t, "sh -c '"+forker+"' & sh -c '"+forker+"' & echo $!; sleep 1000; :"))
	pids := readPIDs(t, process, 1)
	if !within(func() bool { return len(markedProcesses(t)) > 30 }) {
		t.Fatal("it doesn't fork")
	}
	ctx, cancel := untilReaped(process)
	defer cancel()
	killTree(t, ctx, process, processPatience, pids...)
	wantReport(t, process, byTerm)
}

func processKilledByChild(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, `setsid sh -c 'echo $$; kill -KILL '$$'; exec sleep 1000' & wait; :`))
	child := readPID(t, process)
	wantReport(t, process, domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonSignaled})
	if !alive(child) {
		t.Error("the child that left the group is gone")
	}
	killTree(t, context.Background(), process, processPatience, child)
}

func processSignalsGroup(t *testing.T, processes ports.Processes) {
	for _, signal := range []string{"TERM", "HUP", "INT", "KILL", "USR1"} {
		process := startProcess(t, processes, shell(t, `child=$(setsid sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' &); echo $child; kill -`+signal+` 0; sleep 1000; :`))
		child := readPID(t, process)
		if report := waitReport(t, process); report.Reason != domain.ReasonSignaled || report.Signal != "SIG"+signal {
			t.Errorf("%s to its own group: %+v", signal, report)
		}
		killTree(t, context.Background(), process, processPatience, child)
	}
}

func processTerminate(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, `trap 'echo asked; exit 7' TERM; setsid sleep 1000 & echo $!; wait; sleep 1000; :`))
	child := readPID(t, process)
	if err := process.Terminate(); err != nil {
		t.Fatal(err)
	}
	wantReport(t, process, domain.Report{ExitCode: 7, Reason: domain.ReasonExited})
	if got := readAll(t, process); got != "asked\n" {
		t.Errorf("it said %q", got)
	}
	if !alive(child) {
		t.Error("the child ended with the command")
	}
}

func processClose(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, leavers+"sleep 1000; :"))
	pids := readPIDs(t, process, 4)
	for range 2 {
		if err := process.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is alive after Close", pid)
		}
	}
	wantReport(t, process, byKill)
	if n, err := process.Output().Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read after Close: %d, %v", n, err)
	}
	killTree(t, context.Background(), process, time.Hour)
}

func processCloseRead(t *testing.T, processes ports.Processes) {
	bothWays(t, shell(t, "echo $$; sleep 1000; :"), func(kind string, spec ports.ProcessSpec) {
		process := startProcess(t, processes, spec)
		readPID(t, process)
		ended := make(chan error, 1)
		go func() {
			_, err := process.Output().Read(make([]byte, 1))
			ended <- err
		}()
		if err := process.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if err != io.EOF {
				t.Errorf("%s: read: %v", kind, err)
			}
		case <-time.After(processPatience):
			t.Fatalf("%s: the read goes on", kind)
		}
	})
}

func processConcurrent(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, shell(t, leavers+"trap '' TERM; echo $$; while :; do sleep 1000; done"))
	pids := readPIDs(t, process, 5) // the last is its own, once it ignores the signal
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if survivors, err := process.Kill(context.Background(), time.Duration(i*i)*50*time.Millisecond); len(survivors) > 0 || err != nil {
				t.Errorf("Kill: %v, %v", survivors, err)
			}
		})
		all.Go(func() {
			if _, err := process.Wait(context.Background()); err != nil {
				t.Errorf("Wait: %v", err)
			}
		})
		all.Go(func() { _ = process.Terminate() })
	}
	all.Go(func() { _, _ = io.Copy(io.Discard, process.Output()) })
	all.Wait()
	for range 4 {
		all.Go(func() {
			if err := process.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	all.Wait()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is alive", pid)
		}
	}
	wantReport(t, process, byKill)
}
