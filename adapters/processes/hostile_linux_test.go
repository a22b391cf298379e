package processes_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

func eventually(so func() bool) bool {
	for over := time.Now().Add(60 * time.Second); time.Now().Before(over); time.Sleep(5 * time.Millisecond) {
		if so() {
			return true
		}
	}
	return so()
}

// statOf is a process's parent, and whether it is more than a zombie, or what is left while one is reaped.
func statOf(pid int) (parent int, alive bool) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	parent, _ = strconv.Atoi(string(fields[1]))
	return parent, !bytes.ContainsAny(fields[0], "ZXx")
}

func gone(pids ...int) bool {
	for _, pid := range pids {
		if _, alive := statOf(pid); alive {
			return false
		}
	}
	return true
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func readPIDs(t *testing.T, from io.Reader, n int) []int {
	t.Helper()
	lines := bufio.NewScanner(from)
	var pids []int
	for len(pids) < n && lines.Scan() {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("%q is no pid", lines.Text())
		}
		pids = append(pids, pid)
	}
	if len(pids) < n {
		t.Fatalf("%d of %d pids came", len(pids), n)
	}
	return pids
}

func sh(script string) ports.ProcessSpec {
	return ports.ProcessSpec{Command: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}
}

func start(t *testing.T, s *processes.Starter, spec ports.ProcessSpec) ports.Process {
	t.Helper()
	p, err := s.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

// TestNothingOutlivesAKilledParent: not even what left the session, lost its parent or ignores SIGTERM.
func TestNothingOutlivesAKilledParent(t *testing.T) {
	t.Parallel()
	const script = `
		(setsid sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' &)
		(setsid sh -c 'trap "" TERM HUP; echo $$; exec >/dev/null 2>&1; while :; do sleep 1000; done' &)
		echo $$; sleep 1000; :`
	host := exec.Command(self(t), "parent", script)
	output, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	pids := readPIDs(t, output, 3)
	for _, pid := range pids {
		parent, alive := statOf(pid)
		if !alive {
			t.Fatalf("process %d is not there", pid)
		}
		if parent != host.Process.Pid {
			pids = append(pids, parent) // the shim, or a child of its
		}
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	if !eventually(func() bool { return gone(pids...) }) {
		t.Errorf("some of %v outlived the parent", pids)
	}
}

// TestBareSystem: without a user database, HOME, PATH, a cgroup and terminals all works that needs none of them.
func TestBareSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can take /etc away: tested as it is")
		return
	}
	cmd := exec.Command(self(t), "bare")
	cmd.Env = []string{"GOCOVERDIR=" + t.TempDir()} // or a test for coverage would say that it is missing
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	want := ": 0 0\n65534: 65534 65534\n1234:5678: 1234 5678\n" +
		"somebody: user \"somebody\" does not exist: give the name of one that does, a uid, or uid:gid\n" +
		"a log: no terminal\na shell: true true\n"
	if err != nil || string(out) != want {
		t.Errorf("%v, %q, want %q", err, out, want)
	}
}

// TestShimKilledByItsTask: a task with the shim's rights can kill it. The task must not win by that.
func TestShimKilledByItsTask(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	p := start(t, starter(t, processes.ModeShim), sh(`
		sleep 1000 & echo $!
		setsid sh -c 'echo $$; exec sleep 1000' &
		(setsid sh -c 'echo $$; exec sleep 1000' &)
		echo $$; until [ -e `+started+` ]; do :; done; kill -KILL $PPID; sleep 1000; :`))
	pids := readPIDs(t, p.Output(), 4)
	if err := os.WriteFile(started, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	report, err := p.Wait(ctx)
	if err != nil || report.Reason != domain.ReasonSignaled || report.Signal != "SIGKILL" || !strings.Contains(report.Message, "shim") {
		t.Errorf("%+v, %v", report, err)
	}
	if survivors, err := p.Kill(ctx, time.Hour); len(survivors) > 0 || err != nil {
		t.Errorf("Kill: %v, %v", survivors, err)
	}
	if !gone(pids...) {
		t.Errorf("some of %v are alive", pids)
	}
	if err := p.Terminate(); err != nil {
		t.Error(err)
	}
}

// TestShimKilledAtOnce: before it could tell that the command has started, perhaps.
func TestShimKilledAtOnce(t *testing.T) {
	s := starter(t, processes.ModeShim)
	mark := filepath.Join(t.TempDir(), "mark")
	for range 20 {
		p, err := s.Start(ports.ProcessSpec{Command: []string{"/bin/sh", "-c", `kill -KILL $PPID; exec sleep 1000`}, Env: []string{"PATH=/bin", "MARK=" + mark}})
		if err == nil {
			err = p.Close()
		} else if startError := (*ports.StartError)(nil); errors.As(err, &startError) {
			err = nil
		}
		if err != nil {
			t.Error(err)
		}
	}
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		if env, err := os.ReadFile(path); err == nil && strings.Contains(string(env), mark) {
			t.Errorf("%s is left", path)
		}
	}
}

// TestShimStoppedByItsTask: a shim that was stopped must not hold a kill up.
func TestShimStoppedByItsTask(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	p := start(t, starter(t, processes.ModeShim), sh(`until [ -e `+started+` ]; do :; done; kill -STOP $PPID; echo $$; exec sleep 1000`))
	if err := os.WriteFile(started, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pids := readPIDs(t, p.Output(), 1)
	if survivors, err := p.Kill(t.Context(), time.Minute); len(survivors) > 0 || err != nil || !gone(pids...) {
		t.Errorf("Kill: %v, %v", survivors, err)
	}
	if report, err := p.Wait(t.Context()); err != nil || report.Signal != "SIGTERM" || report.Reason != domain.ReasonKilled {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestNotAShim(t *testing.T) {
	for _, line := range [][]string{{"/bin/false"}, {"/no/such/shim"}, {self(t), "tree-shim", "too", "much"}} {
		s, err := processes.New(processes.Config{Mode: processes.ModeShim, Shim: line})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Start(sh("exit"))
		startError := (*ports.StartError)(nil)
		if !errors.As(err, &startError) || startError.ExitCode != 126 || !strings.Contains(err.Error(), domain.Quote(line[0])) {
			t.Errorf("%v: %v", line, err)
		}
	}
}

// TestCgroupsAreRemoved: with the cgroups that the tree made, and those that killed ones of us left.
func TestCgroupsAreRemoved(t *testing.T) {
	root := cgroupRoot(t)
	// Others may run this test, too, and sweep in the middle of this.
	abandoned := filepath.Join(root, fmt.Sprintf("metaservice-abandoned-by-%d", os.Getpid()))
	if !eventually(func() bool { return os.MkdirAll(abandoned+"/below", 0o700) == nil }) {
		t.Fatal("no cgroup can be made")
	}
	p := start(t, starter(t, processes.ModeCgroup), sh(`
		own=`+root+`/$(sed -n 's,^0::.*/,,p' /proc/self/cgroup)
		echo $own
		mkdir -p $own/one/two && sh -c 'echo $$ >'$own'/one/two/cgroup.procs && echo $$ && exec sleep 1000' &
		wait`))
	output := bufio.NewReader(p.Output())
	own, err := output.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	own = strings.TrimSpace(own)
	if _, err := os.Stat(own); err != nil {
		t.Errorf("the cgroup isn't where it should be: %v", err)
	}
	pids := readPIDs(t, output, 1)
	if _, err := os.Stat(abandoned); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the abandoned cgroup is still there: %v", err)
	}
	if survivors, err := p.Kill(t.Context(), time.Minute); len(survivors) > 0 || err != nil || !gone(pids...) {
		t.Errorf("Kill: %v, %v", survivors, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(own); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cgroup is left: %v", err)
	}
}

func cgroupRoot(t *testing.T) string {
	t.Helper()
	p := start(t, starter(t, processes.ModeCgroup), sh(`cat /proc/self/cgroup /proc/self/mountinfo`))
	out, err := io.ReadAll(p.Output())
	if err != nil {
		t.Fatal(err)
	}
	var name, mount, root string
	for line := range strings.Lines(string(out)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			name = filepath.Dir(strings.TrimSpace(path))
		}
		if fields := strings.Fields(line); strings.Contains(line, " - cgroup2 ") {
			root, mount = fields[3], fields[4]
		}
	}
	return filepath.Join(mount, strings.TrimPrefix(name, strings.TrimSuffix(root, "/")))
}

// TestCommandThatLeavesItsCgroup: a manager of containers moves itself. The command is killed all the same.
func TestCommandThatLeavesItsCgroup(t *testing.T) {
	root := cgroupRoot(t)
	p := start(t, starter(t, processes.ModeCgroup), sh(`echo $$ >`+root+`/cgroup.procs; echo $$; exec sleep 1000`))
	pids := readPIDs(t, p.Output(), 1)
	if survivors, err := p.Kill(t.Context(), time.Minute); len(survivors) > 0 || err != nil || !gone(pids...) {
		t.Errorf("Kill: %v, %v", survivors, err)
	}
	if report, err := p.Wait(t.Context()); err != nil || report.Reason != domain.ReasonKilled {
		t.Errorf("%+v, %v", report, err)
	}
}
