package processes

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/domain"
)

func TestParseStat(t *testing.T) {
	const rest = " S 17 42 43 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2000"
	for name, command := range map[string]string{"plain": "sh", "hostile": "a) S 1 (b\n) Z", "empty": ""} {
		got, err := parseStat([]byte("42 (" + command + ")" + rest + "\n"))
		want := stat{pid: 42, parent: 17, session: 43, state: 'S', start: 987654, command: command}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if s, err := parseStat([]byte("42 (sh)" + strings.Replace(rest, "4194560", "4194564", 1))); err != nil || !s.stopped() {
		t.Errorf("what is about to be dead can fork: %+v, %v", s, err)
	}
	for _, bad := range []string{"", "42", "42 (sh", "42 (sh) S 17", "x (sh)" + rest, ")("} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
	if s, err := readStat(os.Getpid()); err != nil || s.pid != os.Getpid() || s.parent != os.Getppid() || s.dead() || s.stopped() {
		t.Errorf("this process is %+v, %v", s, err)
	}
}

func TestCgroupFiles(t *testing.T) {
	const hybrid = "9:name=systemd:/\n4:memory:/task\n0::/own/task\n"
	if path, ok := unifiedPath([]byte(hybrid)); !ok || path != "/own/task" {
		t.Errorf("%q, %t", path, ok)
	}
	if path, ok := unifiedPath([]byte("4:memory:/task\n")); ok {
		t.Errorf("a system without version 2 has %q", path)
	}
	for _, test := range []struct{ root, point, cgroup, want string }{
		{"/", "/sys/fs/cgroup/unified", "/", "/sys/fs/cgroup/unified"},
		{"/", "/sys/fs/cgroup", "/a/b", "/sys/fs/cgroup/a/b"},
		{"/docker/x", "/sys/fs/cgroup", "/docker/x", "/sys/fs/cgroup"},
		{"/docker/x", "/sys/fs/cgroup", "/docker/x/y", "/sys/fs/cgroup/y"},
		{"/docker/x", "/sys/fs/cgroup", "/docker", ""},
		{"/docker/x", "/sys/fs/cgroup", "/docker/xy", ""},
	} {
		got, ok := below(&mountinfo.Info{Root: test.root, Mountpoint: test.point}, test.cgroup)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%+v: %q, %t", test, got, ok)
		}
	}
	folder := t.TempDir()
	if err := os.WriteFile(folder+"/memory.events", []byte("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := (&cgroup{path: folder}).oomKills(); n != 2 {
		t.Errorf("%d kills for want of memory", n)
	}
	if n := (&cgroup{path: folder + "/none"}).oomKills(); n != 0 {
		t.Errorf("%d kills for want of memory where nobody counts", n)
	}
}

func TestReports(t *testing.T) {
	const kill, term, core = syscall.WaitStatus(9), syscall.WaitStatus(15), syscall.WaitStatus(6 | 0x80)
	for _, test := range []struct {
		end  end
		want domain.Report
	}{
		{end{status: 3 << 8}, domain.Report{ExitCode: 3, Reason: domain.ReasonExited}},
		{end{status: term}, domain.Report{ExitCode: 143, Signal: "SIGTERM", Reason: domain.ReasonSignaled}},
		{end{status: core}, domain.Report{ExitCode: 134, Signal: "SIGABRT", Reason: domain.ReasonSignaled}},
		{end{status: 64}, domain.Report{ExitCode: 192, Signal: "SIGRTMIN+30", Reason: domain.ReasonSignaled}},
		{end{status: 33}, domain.Report{ExitCode: 161, Signal: "SIG33", Reason: domain.ReasonSignaled}},
		{end{status: kill, oom: true}, domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonOOM}},
		{end{status: term, oom: true}, domain.Report{ExitCode: 143, Signal: "SIGTERM", Reason: domain.ReasonSignaled}},
		{end{status: 1 << 8, oom: true}, domain.Report{ExitCode: 1, Reason: domain.ReasonExited}},
		{end{status: kill, oom: true, killed: true}, domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonKilled}},
		{end{status: 0, killed: true}, domain.Report{Reason: domain.ReasonKilled}},
	} {
		got := test.end.report()
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", test.end, diff)
		}
		if err := got.Check(); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenFilesFindsAll: what a kernel without close_range leaves to us.
func TestOpenFilesFindsAll(t *testing.T) {
	fd, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if found := openFiles(); !slices.Contains(found, fd) || slices.Min(found) < firstInherited {
		t.Errorf("descriptor %d isn't among %v, or a standard one is", fd, found)
	}
}

// TestCgroupWithoutKill: kernels before 5.14 have no cgroup.kill, so all are frozen and killed one by one.
func TestCgroupWithoutKill(t *testing.T) {
	group, err := newCgroup()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `trap "" TERM; while :; do (setsid sleep 1000 &); done`)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.folder.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	patience := 10 * time.Second
	if !wait(t.Context(), patience, func() bool { return len(group.members()) > 20 }) {
		t.Error("it doesn't fork")
	}
	group.freeze()
	if !wait(t.Context(), patience, func() bool { frozen, ok := group.event("frozen"); return ok && frozen }) {
		t.Error("it isn't frozen")
	}
	before := group.members()
	if len(group.survivors()) != len(before) {
		t.Errorf("%d survivors of %d", len(group.survivors()), len(before))
	}
	group.killEach()
	if !wait(t.Context(), patience, group.empty) {
		t.Errorf("%d are left", len(group.members()))
	}
	_ = cmd.Wait()
	if err := group.remove(); err != nil {
		t.Error(err)
	}
	if !group.empty() || len(group.members()) != 0 {
		t.Error("a cgroup that is gone isn't empty")
	}
}

// TestSweepEndsWhatWasLeft: a cgroup whose owner lives is locked, and spared with all that is in it. What runs in one
// whose owner was killed once ran on, beside whatever the next owner started in its place.
func TestSweepEndsWhatWasLeft(t *testing.T) {
	own, name, err := ownCgroup()
	if err != nil {
		t.Fatal(err)
	}
	sleepIn := func() (*cgroup, *exec.Cmd) {
		group, err := newCgroup()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", `trap "" TERM; setsid sleep 1000 & wait`)
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.folder.Fd())}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if !wait(t.Context(), 10*time.Second, func() bool { return len(group.members()) == 2 }) {
			t.Error("it doesn't fork")
		}
		return group, cmd
	}
	owned, spared := sleepIn()
	left, ended := sleepIn()
	left.folder.Close() // as if its owner had been killed
	if !wait(t.Context(), 10*time.Second, func() bool { sweepCgroups(own, name); return left.gone() }) {
		t.Errorf("what was left runs on: %v", left.members())
		left.kill()
	}
	_ = ended.Wait()
	if state := ended.ProcessState.Sys().(syscall.WaitStatus); state.Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %s", ended.ProcessState)
	}
	if n := len(owned.members()); n != 2 {
		t.Errorf("%d processes are left of 2 whose owner lives", n)
	}
	owned.kill()
	_ = spared.Wait()
	if !wait(t.Context(), 10*time.Second, owned.empty) {
		t.Errorf("%d are left", len(owned.members()))
	}
	if err := owned.remove(); err != nil {
		t.Error(err)
	}
}
