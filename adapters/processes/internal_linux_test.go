package processes

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
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

// drained is an output whose command has ended, with the other end to write at.
func drained(t *testing.T, size *ports.TerminalSize) (*output, *os.File) {
	t.Helper()
	out, childs, err := openStream(size, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out.close()
		childs.Close()
	})
	return out, childs
}

// TestDrainCountsWaitingAlone: the time between reads is the reader's own, and so is that of reading
// what is there already.
func TestDrainCountsWaitingAlone(t *testing.T) {
	for _, size := range []*ports.TerminalSize{nil, {Columns: 80, Rows: 24}} {
		out, childs := drained(t, size)
		if _, err := childs.WriteString(strings.Repeat("x", 3000)); err != nil {
			t.Fatal(err)
		}
		out.patience = 400 * time.Millisecond
		out.commandEnded()
		for got := 0; got < 3000; {
			n, err := out.Read(make([]byte, 500))
			if err != nil {
				t.Fatalf("after %d bytes: %v", got, err)
			}
			got += n
			<-time.After(100 * time.Millisecond) // the reader's own time, which is what this is about
		}
		if out.patience < 200*time.Millisecond {
			t.Errorf("of the patience only %v is left", out.patience)
		}
		if n, err := out.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("then: %d, %v", n, err)
		}
	}
}

// TestDrainWaitsInAll: each byte in time must not buy another 2 s.
func TestDrainWaitsInAll(t *testing.T) {
	out, childs := drained(t, nil)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = childs.WriteString(".")
			}
		}
	}()
	out.patience = 200 * time.Millisecond
	out.commandEnded()
	if n, err := io.Copy(io.Discard, out); !errors.Is(err, ports.ErrOutputCut) || n == 0 || n > 200 {
		t.Errorf("%d bytes came, %v", n, err)
	}
	close(stop)
	<-done
}

// TestDrainEndsAFlood, after all that was there and as much again as DrainMost.
func TestDrainEndsAFlood(t *testing.T) {
	out, childs := drained(t, nil)
	done := make(chan error, 1)
	go func() {
		for chunk := make([]byte, 1<<16); ; {
			if _, err := childs.Write(chunk); err != nil {
				done <- err
				return
			}
		}
	}()
	var first [1]byte
	if _, err := io.ReadFull(out, first[:]); err != nil {
		t.Fatal(err)
	}
	out.commandEnded()
	n, err := io.Copy(io.Discard, out)
	if !errors.Is(err, ports.ErrOutputCut) || n < DrainMost || n > DrainMost+2*pipeSize {
		t.Errorf("%d bytes came, %v", n, err)
	}
	out.close()
	<-done // a broken pipe
}

// TestDrainThatIsJustNotCut: as much as may come, and then the end, is all there was.
func TestDrainThatIsJustNotCut(t *testing.T) {
	for over, want := range map[int]error{0: io.EOF, 1: ports.ErrOutputCut} {
		out, childs := drained(t, nil)
		out.commandEnded()
		out.draining, out.room = true, DrainMost // before the first byte is there
		done := make(chan error, 1)
		go func() {
			_, err := childs.Write(make([]byte, DrainMost+over))
			done <- errors.Join(err, childs.Close())
		}()
		total := 0
		var err error
		for p := make([]byte, 1<<16); err == nil; {
			var n int
			n, err = out.Read(p)
			total += n
		}
		if wrote := <-done; err != want || total != DrainMost || wrote != nil {
			t.Errorf("of %d bytes %d came, and then %v; %v", DrainMost+over, total, err, wrote)
		}
		if _, again := out.Read(make([]byte, 1)); again != want {
			t.Errorf("and then %v", again)
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
	before := group.members()
	if frozen, ok := group.event("frozen"); !ok || !frozen {
		t.Error("it isn't frozen")
	}
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

// TestSweepSparesTheLiving: a cgroup whose owner lives is locked, one in which something runs stays.
func TestSweepSparesTheLiving(t *testing.T) {
	owned, err := newCgroup()
	if err != nil {
		t.Fatal(err)
	}
	defer owned.remove()
	running, err := newCgroup()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(running.folder.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running.folder.Close() // as if its owner had been killed
	sweepCgroups(filepath.Dir(owned.path))
	for _, c := range []*cgroup{owned, running} {
		if c.gone() {
			t.Errorf("%s was swept away", c.path)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !wait(t.Context(), 10*time.Second, func() bool { sweepCgroups(filepath.Dir(owned.path)); return running.gone() }) {
		t.Error("an abandoned cgroup was left")
	}
}
