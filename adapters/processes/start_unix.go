//go:build unix && !linux

package processes

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const needsShim = false

func openTerminal(size ports.TerminalSize) (ours, childs *os.File, err error) {
	ours, childs, err = pty.Open()
	if err != nil {
		return nil, nil, err
	}
	if err := setSize(childs, size); err != nil {
		ours.Close()
		childs.Close()
		return nil, nil, err
	}
	return ours, childs, nil
}

func leaveNewlines(terminal int) error {
	mode, err := unix.IoctlGetTermios(terminal, unix.TIOCGETA)
	if err != nil {
		return err
	}
	mode.Oflag &^= unix.OPOST
	return unix.IoctlSetTermios(terminal, unix.TIOCSETA, mode)
}

// groupTree is a tree as far as its process group goes.
type groupTree struct {
	process *os.Process
	killer  *killer
	reaped  chan struct{}
}

func (s *Starter) hold(cmd *command, files standard, ended func(domain.Report)) (tree, error) {
	process, err := os.StartProcess(cmd.path, cmd.args, &os.ProcAttr{
		Dir:   cmd.dir,
		Env:   cmd.env,
		Files: []*os.File{files.in, files.out, files.err},
		Sys:   cmd.attributes(files.terminal),
	})
	if err != nil {
		return nil, cmd.failed(err)
	}
	t := &groupTree{process: process, reaped: make(chan struct{})}
	t.killer = newKiller(group(process.Pid), func() bool {
		select {
		case <-t.reaped:
			return false
		default:
			return true
		}
	})
	go t.wait(ended)
	return t, nil
}

func (t *groupTree) wait(ended func(domain.Report)) {
	defer close(t.reaped)
	state, err := t.process.Wait()
	if err != nil {
		ended(lost("it could not be waited for: " + err.Error()))
		return
	}
	status, _ := state.Sys().(syscall.WaitStatus)
	ended(end{status: status, killed: t.killer.killed.Load()}.report())
}

func (t *groupTree) terminate() error {
	err := t.process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func (t *groupTree) hangUp() {
	session := group(t.process.Pid) // as far as its leader's group goes
	session.signal(syscall.SIGHUP)
	session.thaw()
}

func (t *groupTree) kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error) {
	return t.killer.kill(ctx, grace), nil
}

func (t *groupTree) release() error { return nil }

// group is a process group, as a holder.
type group int

func (g group) freeze()                 { g.signal(syscall.SIGSTOP) }
func (g group) signal(s syscall.Signal) { _ = syscall.Kill(-int(g), s) }
func (g group) thaw()                   { g.signal(syscall.SIGCONT) }
func (g group) kill()                   { g.signal(syscall.SIGKILL) }
func (g group) empty() bool             { return errors.Is(syscall.Kill(-int(g), 0), syscall.ESRCH) }
func (g group) survivors() []ports.Survivor {
	if g.empty() {
		return nil
	}
	return []ports.Survivor{{PID: int(g), Command: "a process of this group"}}
}

// ShimMain is the shim of Linux; there is none here.
func ShimMain([]string) int { return 2 }
