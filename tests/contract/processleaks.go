package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// markOf is a variable that every process of a test has, and its children inherit. The pid in it keeps
// apart two runs of the suite at the same time.
func markOf(t *testing.T) string {
	return fmt.Sprintf("METASERVICE_CONTRACT=%s of %d", t.Name(), os.Getpid())
}

// nothingLeft holds a test to leaving what it found: goroutines, open files, children, and no process
// with its mark. It looks after all other cleanups.
func nothingLeft(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	files, children := openFiles(), childrenOf(os.Getpid())
	t.Cleanup(func() {
		if !within(func() bool { return len(markedProcesses(t)) == 0 }) {
			t.Errorf("processes are left: %v", markedProcesses(t))
		}
		if !within(func() bool { return len(childrenOf(os.Getpid())) <= len(children) }) {
			t.Errorf("children are left: %v", childrenOf(os.Getpid()))
		}
		if !within(func() bool { return len(openFiles()) <= len(files) }) {
			t.Errorf("open files are left: there were %v, there are %v", files, openFiles())
		}
		goleak.VerifyNone(t, ignore)
	})
}

// within waits for something to become so.
func within(so func() bool) bool {
	for over := time.Now().Add(10 * time.Second); time.Now().Before(over); time.Sleep(2 * time.Millisecond) {
		if so() {
			return true
		}
	}
	return so()
}

func openFiles() []string {
	links, _ := filepath.Glob("/proc/self/fd/*")
	var open []string
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			open = append(open, to)
		}
	}
	return open
}

// statFields is a line of /proc/PID/stat from the state on.
func statFields(pid int) []string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(line[strings.LastIndexByte(string(line), ')')+1:]))
}

// alive tells whether there is such a process; a zombie isn't alive.
func alive(pid int) bool {
	if fields := statFields(pid); len(fields) > 0 {
		return fields[0] != "Z" && fields[0] != "X"
	}
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		return false
	}
	process, err := os.FindProcess(pid)
	return err == nil && process.Signal(syscall.Signal(0)) == nil
}

func allProcesses() []int {
	names, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(filepath.Base(name)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func childrenOf(parent int) []int {
	var children []int
	for _, pid := range allProcesses() {
		if fields := statFields(pid); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			children = append(children, pid)
		}
	}
	return children
}

func markedProcesses(t *testing.T) []int {
	mark := "\x00" + markOf(t) + "\x00"
	var marked []int
	for _, pid := range allProcesses() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && strings.Contains("\x00"+string(env), mark) && alive(pid) {
			marked = append(marked, pid)
		}
	}
	return marked
}

// busyCores keeps every core busy until the test ends, as another task on the machine would.
func busyCores(t *testing.T, cores int) {
	var stop atomic.Bool
	var spinners sync.WaitGroup
	for range cores {
		spinners.Go(func() {
			for !stop.Load() {
			}
		})
	}
	t.Cleanup(func() {
		stop.Store(true)
		spinners.Wait()
	})
}
