//go:build linux

package endtoend

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/tests/contract"
)

// marker is in the environment of every process that a run starts, so that those which are left can be
// found.
const marker = "METASERVICE_TEST_RUN"

// Commands that exit at once, while both cores are busy: not one byte of output is lost, and no process,
// goroutine (TestMain looks), cgroup or file is left.
func TestManyShortRunsLoseAndLeaveNothing(t *testing.T) {
	runs := 100
	if *contract.Long {
		runs = 1000
	}
	busyCores(t)
	folder := t.TempDir()
	run := folder + t.Name()
	for i := range runs {
		config := "tty: " + fmt.Sprint(i%2 == 0)
		log := &sink{}
		text := fmt.Sprintf("run %d: %s", i, strings.Repeat("all of it ", i*7%2000))
		j := job(newMachine(t, folder, config), log, "sh", "-c", `printf %s "$TEXT"`)
		j.Execute.Env = map[string]string{"TEXT": text, marker: run}
		task := start(t, j)
		outcome := ended(t, task)
		if !outcome.Succeeded() || !outcome.Log.Complete() {
			t.Fatalf("run %d: %+v", i, outcome)
		}
		if got := log.String(); got != text {
			t.Fatalf("run %d: %d bytes of %d came: %q", i, len(got), len(text), domain.Cut(got))
		}
		closeTask(t, task)
		if left := entries(t, folder); len(left) > 0 {
			t.Fatalf("run %d left files: %q", i, left)
		}
	}
	if left := processesOf(run); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

// busyCores keeps every core busy until the test ends.
func busyCores(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var spinners []*exec.Cmd
	for range 2 {
		spinner := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := spinner.Start(); err != nil {
			t.Fatal(err)
		}
		spinners = append(spinners, spinner)
	}
	t.Cleanup(func() {
		cancel()
		for _, spinner := range spinners {
			spinner.Wait()
		}
	})
}

// processesOf finds the processes that have a run's marker in their environment.
func processesOf(run string) []string {
	var found []string
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		environ, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(environ), marker+"="+run+"\x00") {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			found = append(found, strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return found
}

// A child that goes on kept the task open.
func TestFault06ATaskEndsThoughAChildGoesOn(t *testing.T) {
	for _, config := range []string{"tty: true", "tty: false"} {
		folder := t.TempDir()
		run := folder + config
		log := &sink{}
		j := job(newMachine(t, folder, config), log, "sh", "-c", "sleep 1000 & echo done")
		j.Execute.Env = map[string]string{marker: run}
		task := start(t, j)
		eventually(t, 20*time.Second, "the command has said its word", func() bool { return log.String() == "done\n" })
		began := time.Now() // the boot's time is another matter, on a busy machine
		outcome := ended(t, task)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it took %s", config, took)
		}
		if !outcome.Succeeded() || log.String() != "done\n" {
			t.Errorf("%s: %+v, log %q", config, outcome, log.String())
		}
		if len(processesOf(run)) == 0 {
			t.Errorf("%s: the child has been ended, though nobody asked for it", config)
		}
		closeTask(t, task)
		if left := processesOf(run); len(left) > 0 {
			t.Errorf("%s: processes are left: %v", config, left)
		}
	}
}

// A kill was acknowledged before anything was dead, and a child that had left the process group survived.
func TestFault10AKillTakesTheWholeTree(t *testing.T) {
	folder := t.TempDir()
	run := folder
	log := &sink{}
	j := job(newMachine(t, folder, ""), log, "sh", "-c",
		`setsid sleep 1000 & (setsid sh -c 'trap "" TERM; sleep 1000; sleep 1000' &) ; sleep 1000 & echo ready; wait`)
	j.Execute.Env = map[string]string{marker: run}
	task := start(t, j)
	eventually(t, 20*time.Second, "the task is ready", func() bool {
		return log.String() == "ready\n" && len(processesOf(run)) >= 5
	})
	began := time.Now()
	if err := task.Service().Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := processesOf(run); len(left) > 0 {
		t.Errorf("the kill was answered with processes alive: %v", left)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the kill took %s", took)
	}
	outcome := ended(t, task)
	if report := outcome.Report(); outcome.Status != domain.StatusFailed || report == nil || report.Reason != domain.ReasonKilled {
		t.Errorf("outcome %+v, report %v", outcome, report)
	}
}

// The host that is killed takes its guest along: its process is gone, with nobody left to end it.
func TestAHostThatIsKilledLeavesNoProcess(t *testing.T) {
	folder := t.TempDir()
	command := exec.Command(tool("metaservice"), "run", "--env", marker+"="+folder, "--",
		"sh", "-c", "setsid sleep 1000 & sleep 1000")
	command.Env = append(os.Environ(), "TMPDIR="+folder)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the task runs", func() bool { return len(processesOf(folder)) >= 3 })
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	command.Wait()
	eventually(t, 20*time.Second, "the task's processes are gone", func() bool {
		return len(processesOf(folder)) == 0
	})
}
