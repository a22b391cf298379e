package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// watcher waits for what happens to a task, until its life has a status.
type watcher struct {
	*Task
	reason error // why the guest was asked to end the task, where it wasn't the caller

	ctx    context.Context // of the asking: it ends with the patience for it; nil before
	cancel context.CancelFunc
	asking sync.WaitGroup
	asked  chan error
	failed error // why the asking failed
}

func (t *Task) watch() domain.Outcome {
	w := &watcher{Task: t}
	defer w.stop()
	timeout, stop := timerFor(t.timeout)
	defer stop()
	boot, stop := timerFor(t.boot)
	defer stop()
	called, killed := t.service.Called(), t.killed
	for {
		select {
		case <-t.service.Settled():
			return w.reported()
		case <-t.aborted:
			return w.closed(domain.ErrSandboxAborted)
		case <-killed:
			killed = nil
			w.ask()
		case <-timeout:
			timeout = nil
			if t.happen(domain.EventTimedOut) {
				w.reason = fmt.Errorf("%w: it had %s", ErrTimedOut, t.timeout)
				w.ask()
			}
		case w.failed = <-w.asked:
			w.asked = nil
		case <-w.gaveUp():
			t.happen(domain.EventGaveUp)
			if w.failed == nil {
				w.failed = context.Cause(w.ctx)
			}
			return w.closed(w.failed)
		case <-t.guest.Done():
			return w.gone(domain.EventMachineDied, t.machineDied())
		case <-t.service.Lost():
			return w.gone(domain.EventGuestLost, domain.ErrGuestLost)
		case <-called:
			called, boot = nil, nil
		case <-boot:
			return w.gone(domain.EventMachineDied,
				fmt.Errorf("the guest did not call its host within %s: are guest-tools running in it, and do they reach the metadata address?", t.boot))
		}
	}
}

// timerFor is a channel that fires after d, or never if d is 0.
func timerFor(d time.Duration) (<-chan time.Time, func()) {
	if d <= 0 {
		return nil, func() {}
	}
	timer := time.NewTimer(d)
	return timer.C, func() { timer.Stop() }
}

// ask has the guest end its task. The log goes on until it has: what a program says when it is ended is
// often why.
func (w *watcher) ask() {
	w.ctx, w.cancel = context.WithTimeoutCause(context.Background(), killPatience,
		fmt.Errorf("the guest did not end its task within %s", killPatience))
	w.asked = make(chan error, 1)
	asked := w.asked
	w.asking.Go(func() { asked <- w.service.Kill(w.ctx) })
}

// gaveUp is closed when the guest has had its time to end the task.
func (w *watcher) gaveUp() <-chan struct{} {
	if w.ctx == nil {
		return nil
	}
	return w.ctx.Done()
}

func (w *watcher) stop() {
	if w.cancel != nil {
		w.cancel()
	}
	w.asking.Wait()
}

func (t *Task) machineDied() error {
	const text = "the guest's machine ended before the task did"
	if err := t.guest.Err(); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return errors.New(text)
}

// reported is the outcome that the guest has told, under the status that all else gives it.
func (w *watcher) reported() domain.Outcome {
	outcome, err := w.service.Outcome(context.Background())
	if err != nil { // only a closed service, and Close waits for us
		return w.closed(err)
	}
	event := domain.EventFailed
	if outcome.Succeeded() {
		event = domain.EventSucceeded
	}
	w.happen(event)
	outcome.Status = w.status()
	outcome.Err = errors.Join(w.reason, outcome.Err)
	if outcome.Status == domain.StatusAborted {
		outcome.Err = errors.Join(domain.ErrSandboxAborted, outcome.Err)
	}
	return outcome
}

// gone ends a task whose guest has nothing more to say. A result that it reported before counts: the
// log's end is then close.
func (w *watcher) gone(event domain.Event, err error) domain.Outcome {
	if w.service.Resolved() {
		select {
		case <-w.service.Settled():
			return w.reported()
		case <-w.aborted:
			err = domain.ErrSandboxAborted
		}
	}
	w.happen(event)
	return w.closed(err)
}

// closed is an outcome without a result, with the log as far as it came. An abort waits for none of it:
// the task's log is open as long as the task goes on, and nobody has asked that to end.
func (w *watcher) closed(err error) domain.Outcome {
	outcome := domain.Outcome{Status: w.status(), Err: errors.Join(w.reason, err)}
	if outcome.Status == domain.StatusAborted {
		outcome.Log = w.service.closeLog(0)
	} else {
		outcome.Log = w.service.CloseLog()
	}
	return outcome
}
