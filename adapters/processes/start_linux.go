package processes

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const needsShim = true

// hold starts a command so that its tree is held, in the mode's way. ended is called once, when the
// command itself has ended. Its errors are *ports.StartError.
func (s *Starter) hold(cmd *command, files standard, ended func(domain.Report)) (tree, error) {
	if s.config.Mode == ModeShim || s.noCgroup.Load() {
		return startShim(s.config.Shim, cmd, files, ended)
	}
	t, err := startInCgroup(cmd, files, ended)
	if err == nil {
		return t, nil
	}
	if s.config.Mode == ModeCgroup {
		if refused := (*cgroupError)(nil); errors.As(err, &refused) {
			return nil, startError(domain.ExitNotExecutable, "no cgroup of version 2 could be made to hold the command (mount a hierarchy in which this process may make one, or hold trees by a shim): %w", refused.err)
		}
		return nil, cmd.failed(err)
	}
	// The system doesn't say whether it refused the cgroup or the command. The shim's own try tells: if
	// that works, the cgroup it was.
	t, shimErr := startShim(s.config.Shim, cmd, files, ended)
	if shimErr == nil && s.noCgroup.CompareAndSwap(false, true) {
		s.config.Logger.Info("no cgroup can be used to hold processes, so shims do", slog.Any("error", err))
	}
	return t, shimErr
}

// cgroupError is a cgroup that can't be made.
type cgroupError struct{ err error }

func (e *cgroupError) Error() string { return e.err.Error() }

// cgroupTree is a tree that a cgroup holds.
type cgroupTree struct {
	cgroup  *cgroup
	process *os.Process
	killer  *killer
	reaped  chan struct{} // closed when the command has been, and its end reported
}

func startInCgroup(cmd *command, files standard, ended func(domain.Report)) (tree, error) {
	group, err := newCgroup()
	if err != nil {
		return nil, &cgroupError{err}
	}
	process, err := startIn(group, cmd, files)
	if err != nil {
		_ = group.remove()
		return nil, err
	}
	t := &cgroupTree{cgroup: group, process: process, reaped: make(chan struct{})}
	t.killer = newKiller(group, func() bool { return commandAlive(process.Pid, t.reaped) })
	go t.wait(ended)
	return t, nil
}

func startIn(group *cgroup, cmd *command, files standard) (*os.Process, error) {
	attr := cmd.attributes(files.terminal)
	attr.UseCgroupFD, attr.CgroupFD = true, int(group.folder.Fd())
	return os.StartProcess(cmd.path, cmd.args, &os.ProcAttr{
		Dir:   cmd.dir,
		Env:   cmd.env,
		Files: []*os.File{files.in, files.out, files.err},
		Sys:   attr,
	})
}

func (t *cgroupTree) wait(ended func(domain.Report)) {
	defer close(t.reaped)
	state, err := t.process.Wait()
	if err != nil {
		ended(lost("it could not be waited for: " + err.Error()))
		return
	}
	status, _ := state.Sys().(syscall.WaitStatus)
	ended(end{status: status, killed: t.killer.killed.Load(), oom: t.cgroup.oomKills() > 0}.report())
}

func (t *cgroupTree) terminate() error {
	err := t.process.Signal(unix.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func (t *cgroupTree) hangUp() { hangUpSession(t.process.Pid) }

// kill returns once the command has been reaped, too, so that its report is there.
func (t *cgroupTree) kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error) {
	survivors := t.killer.kill(ctx, grace)
	if len(survivors) > 0 {
		return survivors, nil
	}
	patience := time.NewTimer(killAgain)
	defer patience.Stop()
	select {
	case <-t.reaped:
		return nil, nil
	case <-patience.C:
	}
	// A manager of containers may have moved itself into a cgroup of its own: the command, at least, is
	// ours to kill wherever it is.
	t.killer.note()
	_ = t.process.Kill()
	patience.Reset(killPatience)
	select {
	case <-t.reaped:
		return nil, nil
	case <-patience.C:
		s, _ := readStat(t.process.Pid)
		return []ports.Survivor{{PID: t.process.Pid, Command: s.command}}, nil
	}
}

func (t *cgroupTree) release() error { return t.cgroup.remove() }
