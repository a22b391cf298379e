package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Sandbox is a task that was started by an Engine: a ports.Sandbox.
type Sandbox struct {
	ports.SandboxBase
	engine   *Engine
	task     *Task
	dispose  func()          // tells that it has ended, and isn't needed any more; its life lets that happen once
	stop     context.Context // ends when there is no more time for a guest to stop by itself
	hurry    context.CancelFunc
	disposed chan struct{} // closed by dispose
	released chan struct{} // closed when nothing of it is left, and relErr is set
	relErr   error

	releasing sync.Once
	unwatch   func() bool // lets go of the engine, whose lock guards it
}

// newSandbox takes a started task over, and sees to it that it is released, once, whatever ends it.
func newSandbox(e *Engine, task *Task) *Sandbox {
	s := &Sandbox{
		engine:   e,
		task:     task,
		disposed: make(chan struct{}),
		released: make(chan struct{}),
	}
	s.stop, s.hurry = context.WithCancel(e.polite)
	s.dispose = func() {
		if task.dispose() {
			close(s.disposed)
		}
		s.settle()
	}
	e.keep(s, func() {
		_ = task.Abort() // too late is fine
		s.settle()
	})
	task.afterDone(s.settle)
	return s
}

// settle has the sandbox released, once its task has ended and nobody needs the guest any more. Most sandboxes only
// wait: no goroutine does so for them.
func (s *Sandbox) settle() {
	select {
	case <-s.task.Done():
	default:
		return
	}
	if s.hasGuest() && s.engine.closing.Err() == nil {
		select {
		case <-s.disposed:
		default:
			return
		}
	}
	s.releasing.Do(func() { go s.release() }) // ends when nothing of the sandbox is left; Engine.Dispose waits for it
}

// release ends the guest.
func (s *Sandbox) release() {
	defer s.engine.running.Done()
	defer close(s.released)
	s.dispose() // whoever asks the guest for files is told so, before that fails in odd ways
	ctx, cancel := context.WithTimeout(s.stop, s.engine.config.StopTimeout)
	defer cancel()
	defer s.hurry()
	s.relErr = s.task.Close(ctx)
	if s.relErr != nil {
		s.engine.config.Logger.Error("a sandbox could not be released whole", "error", s.relErr)
	}
	s.engine.released(s)
}

// hasGuest tells whether the task, which has ended, has left a guest that can be asked for files.
func (s *Sandbox) hasGuest() bool {
	switch s.task.outcome.Status {
	case domain.StatusAborted, domain.StatusGuestLost, domain.StatusMachineDied:
		return false
	}
	return true
}

// Task is what runs in the sandbox, for callers that want more of it than ports.Sandbox has. It is the
// sandbox's to close.
func (s *Sandbox) Task() *Task { return s.task }

// Release ends the sandbox wherever it is, and returns when nothing is left of it. Once ctx ends the
// guest is killed. Any number of times.
func (s *Sandbox) Release(ctx context.Context) error {
	_ = s.task.Abort() // too late is fine
	s.dispose()
	select {
	case <-s.released:
	case <-ctx.Done():
		s.hurry()
		<-s.released
	}
	return s.relErr
}

// WaitForResult implements ports.Sandbox.
func (s *Sandbox) WaitForResult(ctx context.Context) (ports.ResultSet, error) {
	outcome, err := s.task.Wait(ctx)
	if err != nil {
		return nil, err
	}
	if !s.hasGuest() {
		select {
		case <-s.released:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if outcome.Status == domain.StatusAborted {
			return nil, domain.ErrSandboxAborted
		}
		return nil, &ports.OutcomeError{Outcome: outcome}
	}
	select {
	case <-s.disposed:
		return nil, domain.ErrSandboxTerminated
	case <-s.engine.closing.Done():
		return nil, domain.ErrSandboxTerminated
	default:
		return &resultSet{sandbox: s}, nil
	}
}

// NewShell implements ports.Sandbox.
func (s *Sandbox) NewShell(ctx context.Context, command []string, tty bool) (ports.Shell, error) {
	shell, err := s.OpenShell(ctx, domain.ShellSpec{Command: command, TTY: tty})
	if err != nil {
		return nil, err // not a nil in a Shell
	}
	return shell, nil
}

// OpenShell implements ports.Sandbox.
func (s *Sandbox) OpenShell(ctx context.Context, spec domain.ShellSpec) (ports.ShellSession, error) {
	return s.task.OpenShell(ctx, spec)
}

// Kill implements ports.Sandbox.
func (s *Sandbox) Kill() error { return s.task.Kill() }

// Abort implements ports.Sandbox.
func (s *Sandbox) Abort() error {
	err := s.task.Abort()
	if err != nil && !errors.Is(err, domain.ErrSandboxAborted) {
		return err
	}
	<-s.released // bounded by the engine's StopTimeout, and what the machine takes to kill
	if s.relErr == nil {
		return err
	}
	return errors.Join(err, s.relErr)
}

// resultSet is a sandbox's end whose guest is there.
type resultSet struct {
	ports.ResultSetBase
	sandbox *Sandbox
}

func (r *resultSet) Outcome() domain.Outcome { return r.sandbox.task.outcome }

func (r *resultSet) Success() bool { return r.Outcome().Succeeded() }

// usable is nil until Dispose, the result set's or the engine's.
func (r *resultSet) usable() error {
	select {
	case <-r.sandbox.disposed:
		return domain.ErrSandboxTerminated
	case <-r.sandbox.engine.closing.Done():
		return domain.ErrSandboxTerminated
	default:
		return nil
	}
}

// reach is ctx for asking the guest for files: it ends when nobody is there to answer, too. Nobody
// should have to wait for three tries to learn that a machine has died. Call done at the end.
func (r *resultSet) reach(ctx context.Context) (reach context.Context, done func()) {
	ctx, stop := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		task := r.sandbox.task
		select {
		case <-r.sandbox.disposed:
			stop(domain.ErrSandboxTerminated)
		case <-r.sandbox.engine.closing.Done():
			stop(domain.ErrSandboxTerminated)
		case <-task.Gone():
			if err := r.usable(); err != nil { // it was released, which ends the machine first
				stop(err)
				return
			}
			stop(fmt.Errorf("%w: the guest's machine has ended", domain.ErrNonFatalInternalError))
		case <-task.service.Lost():
			stop(fmt.Errorf("%w: %w", domain.ErrNonFatalInternalError, domain.ErrGuestLost))
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		stop(nil)
		watch.Wait()
	}
}

func (r *resultSet) ExtractFile(ctx context.Context, path string) (io.ReadSeekCloser, error) {
	if err := r.usable(); err != nil {
		return nil, err
	}
	ctx, done := r.reach(ctx)
	defer done()
	file, err := r.sandbox.task.service.Fetch(ctx, path, r.sandbox.engine.config.Storage)
	return file, r.told(err)
}

// told is what the caller is told of an error: once the guest is being ended, there are many, and they
// all mean the same.
func (r *resultSet) told(err error) error {
	switch {
	case err == nil:
		return nil
	case r.usable() != nil && !errors.Is(err, domain.ErrHandlerInterrupt):
		return domain.ErrSandboxTerminated
	case errors.Is(err, domain.ErrInvalidAction):
		return fmt.Errorf("%w: %w", domain.ErrNonFatalInternalError, err)
	}
	return err
}

func (r *resultSet) ExtractFolder(ctx context.Context, path string, handler ports.FileHandler) error {
	if err := r.usable(); err != nil {
		return err
	}
	ctx, unwatch := r.reach(ctx)
	defer unwatch()
	service, config := r.sandbox.task.service, r.sandbox.engine.config
	x := &extraction{path: path, handler: handler, service: service, store: newFolderStorage(config.Storage, service.limits.FolderBytes)}
	x.ctx, x.stop = context.WithCancelCause(ctx)
	defer x.stop(nil)
	rest, err := service.gather(x.ctx, path, x)
	tried := 0
	if err == nil {
		tried = eachFile(x.ctx, rest.Files, x.fetch)
	}
	switch {
	case x.broken.Load(), err == nil && tried < len(rest.Files): // else it came to its end just in time
		return r.told(context.Cause(x.ctx))
	case err != nil:
		return r.told(err)
	case rest.Refused > 0:
		return fmt.Errorf("%w: %d names in %s can't be kept: %w", domain.ErrNonFatalInternalError,
			rest.Refused, domain.Quote(path), errors.Join(rest.Reasons...))
	}
	return nil
}

// Dispose implements ports.ResultSet.
func (r *resultSet) Dispose() error {
	r.sandbox.dispose()
	<-r.sandbox.released // bounded as in Abort
	return r.sandbox.relErr
}

var (
	_ ports.Sandbox   = (*Sandbox)(nil)
	_ ports.ResultSet = (*resultSet)(nil)
)
