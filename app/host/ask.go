package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// ask is one attempt at one action: what the caller waits for, and how its reply is received. Only
// the receiver of the action's own kind is set; it runs on the goroutine of the reply's request.
type ask struct {
	action   domain.Action
	artifact func(ctx context.Context, a *ask, reply ports.ArtifactReply) error
	folder   func(ctx context.Context, a *ask, reply ports.FolderReply) error
	archive  func(ctx context.Context, a *ask, reply ports.ArchiveReply) error
	session  chan ports.ShellSession // room for one: the shell, before finish tells that it is there
	ended    func()                  // tells of its end, once it was there

	ctx  context.Context // ends when the caller gives up, or the service closes
	stop context.CancelCauseFunc
	drop func()        // undoes what a reply brought that nobody waits for any more; nil is nothing
	done chan error    // room for one: what became of it
	back chan struct{} // room for one: it was given back, which may have moved its deadline closer
	over chan struct{} // closed once the reply's goroutine has let go of everything

	claimed  bool // a reply is being received; guarded by Service.mu
	finished atomic.Bool
}

// finish tells the caller what became of it. The first word counts.
func (a *ask) finish(err error) (first bool) {
	if first = a.finished.CompareAndSwap(false, true); first {
		a.done <- err
	}
	return first
}

// Fetch brings one file out of the guest into storage, and returns it whole, positioned at its start;
// the caller closes it. It tries Limits.Tries times. The errors are ErrResourceNotFound, a LimitError
// or ErrStorage, ctx's cause, ErrSandboxTerminated after Close, and ErrNonFatalInternalError with
// every try's reason below it. After an error nothing is left in the storage.
func (s *Service) Fetch(ctx context.Context, path string, storage ports.Storage) (io.ReadSeekCloser, error) {
	var file io.ReadSeekCloser
	err := s.persist(ctx, pathAction{domain.KindGetArtifact, path}, func() error {
		action, err := domain.GetArtifact(s.ids.NewID(), path)
		if err != nil {
			return err
		}
		got := make(chan io.ReadSeekCloser, 1)
		drop := func() {
			select {
			case f := <-got:
				f.Close()
			default:
			}
		}
		err = s.once(ctx, &ask{action: action, drop: drop, artifact: func(ctx context.Context, a *ask, reply ports.ArtifactReply) error {
			f, err := s.receiveArtifact(ctx, a, storage, reply)
			if err != nil {
				return err
			}
			if a.ctx.Err() != nil { // nobody may be there any more to close it
				return errors.Join(context.Cause(a.ctx), f.Close())
			}
			got <- f
			return nil
		}})
		if err != nil {
			drop() // it arrived just as the caller gave up
			return err
		}
		file = <-got
		return nil
	})
	return file, err
}

// List asks the guest for the names of all regular files below a folder. Its errors are those of
// Fetch. Names that can't be kept are counted in the listing.
func (s *Service) List(ctx context.Context, path string) (domain.Listing, error) {
	var listing domain.Listing
	err := s.persist(ctx, pathAction{domain.KindListFolder, path}, func() error {
		action, err := domain.ListFolder(s.ids.NewID(), path)
		if err != nil {
			return err
		}
		got := make(chan domain.Listing, 1)
		err = s.once(ctx, &ask{action: action, folder: func(ctx context.Context, a *ask, reply ports.FolderReply) error {
			l, err := s.receiveFolder(ctx, a, path, reply)
			if err == nil {
				got <- l
			}
			return err
		}})
		if err == nil {
			listing = <-got
		}
		return err
	})
	return listing, err
}

// Kill asks the guest to end the task's whole process tree, and returns when it has. Its errors are
// those of Fetch.
func (s *Service) Kill(ctx context.Context) error {
	return s.persist(ctx, domain.KindKillProcess, func() error {
		action, err := domain.KillProcess(s.ids.NewID())
		if err != nil {
			return err
		}
		return s.once(ctx, &ask{action: action})
	})
}

// pathAction names an action for an error, if there is one.
type pathAction struct {
	kind domain.Kind
	path string
}

func (a pathAction) String() string { return fmt.Sprintf("%s of %s", a.kind, domain.Quote(a.path)) }

// persist tries something until it works, is final, or was tried often enough, and keeps every
// reason.
func (s *Service) persist(ctx context.Context, what fmt.Stringer, try func() error) error {
	var failed error
	for n := 1; n <= s.limits.Tries; n++ {
		err := try()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, after(context.Cause(ctx), failed))
		case s.closing.Err() != nil:
			return fmt.Errorf("%s: %w", what, after(context.Cause(s.closing), failed))
		case errors.Is(err, domain.ErrResourceNotFound), errors.Is(err, domain.ErrInvalidAction):
			return fmt.Errorf("%s: %w", what, err)
		case isFinal(err):
			return fmt.Errorf("%w: %s: %w", domain.ErrNonFatalInternalError, what, err)
		}
		s.log.Warn("action failed", "action", what.String(), "try", n, "of", s.limits.Tries, "error", err)
		if failed == nil {
			failed = fmt.Errorf("try %d: %w", n, err)
		} else {
			failed = fmt.Errorf("%w; try %d: %w", failed, n, err)
		}
	}
	return fmt.Errorf("%w: %s failed %d times: %w", domain.ErrNonFatalInternalError, what, s.limits.Tries, failed)
}

// after is an end, with what had failed before it.
func after(end, failed error) error {
	if failed == nil {
		return end
	}
	return fmt.Errorf("%w, after %w", end, failed)
}

// isFinal tells whether another try would only fail the same way.
func isFinal(err error) bool {
	_, limit := errors.AsType[*domain.LimitError](err)
	return limit || errors.Is(err, domain.ErrStorage) || errors.Is(err, domain.ErrGuestError) || errors.Is(err, domain.ErrTooManyActions)
}

// once offers an action, and waits for what becomes of it.
func (s *Service) once(ctx context.Context, a *ask) error {
	a.done = make(chan error, 1)
	a.back = make(chan struct{}, 1)
	a.over = make(chan struct{})
	a.ctx, a.stop = context.WithCancelCause(ctx)
	defer a.stop(nil)
	defer context.AfterFunc(s.closing, func() { a.stop(context.Cause(s.closing)) })()

	deadline, err := s.offer(a)
	if err != nil {
		return err
	}
	timer := time.NewTimer(s.patience(deadline))
	defer timer.Stop()
	for {
		select {
		case err := <-a.done:
			return err
		case <-timer.C:
			s.rearm(a, timer)
		case <-a.back:
			s.rearm(a, timer)
		case <-a.ctx.Done():
			if a.session != nil && !a.finish(context.Cause(a.ctx)) {
				return <-a.done // a shell that is there has an owner
			}
			s.withdraw(a)
			return context.Cause(a.ctx)
		}
	}
}

// rearm sets the timer to the ask's deadline, unless that is over: then a.done tells.
func (s *Service) rearm(a *ask, timer *time.Timer) {
	if deadline, waiting := s.expire(a); waiting {
		timer.Reset(s.patience(deadline))
	}
}

// patience is when to look at an ask again. Handing it over moves its deadline to Limits.Reply from
// then, and tells nobody: where that is short, it may come before the end of the offer.
func (s *Service) patience(deadline time.Time) time.Duration {
	return min(time.Until(deadline), s.limits.Reply)
}

func (s *Service) offer(a *ask) (deadline time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noPolls {
		return time.Time{}, fmt.Errorf("%w: polls were stopped", domain.ErrNoPoll)
	}
	if err := s.mailbox.Offer(a.action, time.Now()); err != nil {
		return time.Time{}, err
	}
	s.asks[a.action.ID()] = a
	s.match()
	deadline, _ = s.mailbox.Deadline(a.action.ID())
	return deadline, nil
}

// expire ends the ask if its time is over. While it still waits, deadline is when to look again;
// handing the action over has moved it.
func (s *Service) expire(a *ask) (deadline time.Time, waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := a.action.ID()
	if reason := s.mailbox.Expire(id, time.Now()); reason != nil {
		delete(s.asks, id)
		a.finish(fmt.Errorf("%w: %s", reason, a.action))
	}
	return s.mailbox.Deadline(id)
}

// withdraw gives an ask up. Where its reply is being received it waits for that to let go, so that
// nothing is left behind when the caller returns; a.ctx has ended, which interrupts it.
func (s *Service) withdraw(a *ask) {
	s.mu.Lock()
	claimed := a.claimed
	s.mailbox.Withdraw(a.action.ID())
	delete(s.asks, a.action.ID())
	s.mu.Unlock()
	if !claimed {
		return
	}
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-a.over:
	case <-grace.C:
	}
}

// Pending implements ports.GuestAPI.
func (s *Service) Pending(id domain.ActionID) (domain.Action, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mailbox.Pending(id, time.Now())
}

// claim uses an id up.
func (s *Service) claim(id domain.ActionID) (*ask, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.mailbox.Claim(id, time.Now()); err != nil {
		return nil, err
	}
	a := s.asks[id]
	a.claimed = true
	delete(s.asks, id)
	return a, nil
}

// answer claims id and has its reply received, until the request, the caller or the service ends.
func (s *Service) answer(ctx context.Context, id domain.ActionID, receive func(ctx context.Context, a *ask) error) error {
	defer s.request(false)()
	a, err := s.claim(id)
	if err != nil {
		return err
	}
	defer close(a.over)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(a.ctx, func() { cancel(context.Cause(a.ctx)) })()
	err = receive(ctx, a)
	if first := a.finish(err); !first && err == nil && a.drop != nil {
		a.drop() // the caller had been told that it stalls
	}
	runtime.Gosched() // the caller first, and then the guest's answer, for which nobody waits
	return err
}

// Artifact implements ports.GuestAPI.
func (s *Service) Artifact(ctx context.Context, id domain.ActionID, reply ports.ArtifactReply) error {
	err := s.answer(ctx, id, func(ctx context.Context, a *ask) error {
		if a.artifact == nil {
			return notFor(a)
		}
		return a.artifact(ctx, a, reply)
	})
	if errors.Is(err, domain.ErrResourceNotFound) || errors.Is(err, domain.ErrGuestError) {
		return nil // the caller's bad news; as a reply it is fine
	}
	return err
}

// Folder implements ports.GuestAPI.
func (s *Service) Folder(ctx context.Context, id domain.ActionID, reply ports.FolderReply) error {
	err := s.answer(ctx, id, func(ctx context.Context, a *ask) error {
		if a.folder == nil {
			return notFor(a)
		}
		return a.folder(ctx, a, reply)
	})
	if errors.Is(err, domain.ErrResourceNotFound) {
		return nil
	}
	return err
}

// Archive implements ports.GuestAPI.
func (s *Service) Archive(ctx context.Context, id domain.ActionID, reply ports.ArchiveReply) error {
	err := s.answer(ctx, id, func(ctx context.Context, a *ask) error {
		if a.archive == nil {
			return notFor(a)
		}
		return a.archive(ctx, a, reply)
	})
	if errors.Is(err, domain.ErrResourceNotFound) || errors.Is(err, domain.ErrGuestError) {
		return nil
	}
	return err
}

// Killed implements ports.GuestAPI.
func (s *Service) Killed(ctx context.Context, id domain.ActionID) error {
	return s.answer(ctx, id, func(_ context.Context, a *ask) error {
		if a.action.Kind() != domain.KindKillProcess {
			return notFor(a)
		}
		return nil
	})
}

// Refuse implements ports.GuestAPI.
func (s *Service) Refuse(ctx context.Context, id domain.ActionID, reason error) error {
	return s.answer(ctx, id, func(context.Context, *ask) error { return reason })
}

func notFor(a *ask) error {
	return fmt.Errorf("%w: it is not what answers a %s", domain.ErrInvalidReply, a.action.Kind())
}
