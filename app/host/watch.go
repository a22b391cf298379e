package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// watcher waits for what happens to a task and its shells, until its life has a status.
type watcher struct {
	*Task
	told   *domain.Outcome // what the guest has reported; nil before
	reason error           // why the guest was asked to end the task, where it wasn't the caller

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
	settled, called, killed := t.service.Settled(), t.service.Called(), t.killed
	for {
		select {
		case <-settled:
			settled, timeout = nil, nil
			if w.reported() {
				return w.ended(nil)
			}
		case <-t.alone:
			return w.ended(nil)
		case <-t.aborted:
			t.service.AbortShells() // their connections last until the machine has ended
			return w.ended(domain.ErrSandboxAborted)
		case <-killed:
			killed = nil
			w.ask()
		case <-timeout:
			timeout = nil
			if _, ask := t.happen(domain.EventTimedOut); ask {
				w.reason = fmt.Errorf("%w: it had %s", ErrTimedOut, t.timeout)
				w.ask()
			}
		case w.failed = <-w.asked:
			w.asked = nil
		case <-w.gaveUp():
			return w.unheard()
		case <-t.guest.Done():
			return w.gone(domain.EventMachineDied, t.machineDied())
		case <-t.service.Lost():
			return w.gone(domain.EventGuestLost, domain.ErrGuestLost)
		case <-called:
			called, boot = nil, nil
		case <-boot:
			return w.gone(domain.EventMachineDied, t.uncalled())
		}
	}
}

// uncalled is what there is to say of a guest that did not call.
func (t *Task) uncalled() error {
	if why := t.service.whyUncalled(); why != nil {
		return fmt.Errorf("the guest's tools did not prove themselves within %s: %w", t.boot, why)
	}
	says := ""
	if g, ok := t.guest.(ports.GuestWithWords); ok && g.LastWords() != "" {
		says = " " + g.LastWords()
	}
	return fmt.Errorf("the guest did not call its host within %s: are guest-tools running in it, and do they reach the metadata address?%s", t.boot, says)
}

// timerFor is a channel that fires after d, or never if d is 0.
func timerFor(d time.Duration) (<-chan time.Time, func()) {
	if d <= 0 {
		return nil, func() {}
	}
	timer := time.NewTimer(d)
	return timer.C, func() { timer.Stop() }
}

// ask has the guest end its task and its shells. The log goes on until it has: what a program says when it
// is ended is often why.
func (w *watcher) ask() {
	w.service.AbortShells()
	w.ctx, w.cancel = context.WithTimeoutCause(context.Background(), killPatience,
		fmt.Errorf("the guest did not end its task and its shells within %s", killPatience))
	if w.told != nil {
		return // there are shells alone
	}
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

// reported takes what the guest has told; ended is false while there are shells.
func (w *watcher) reported() (ended bool) {
	outcome, err := w.service.Outcome(context.Background())
	if err != nil { // only a closed service, and Close waits for us
		outcome.Err = err
	}
	w.told = &outcome
	event := domain.EventFailed
	if outcome.Succeeded() {
		event = domain.EventSucceeded
	}
	ended, _ = w.happen(event)
	return ended
}

// gone ends a task whose guest has nothing more to say. A result that it reported before counts: the
// log's end is then close.
func (w *watcher) gone(event domain.Event, err error) domain.Outcome {
	if w.told == nil && w.service.Resolved() {
		select {
		case <-w.service.Settled():
			w.reported()
		case <-w.aborted:
			err = domain.ErrSandboxAborted
		}
	}
	w.happen(event)
	w.service.breakShells(err)
	return w.ended(err)
}

// unheard ends a task whose guest did not end it, or its shells, in time.
func (w *watcher) unheard() domain.Outcome {
	if w.failed == nil {
		w.failed = context.Cause(w.ctx)
	}
	w.happen(domain.EventGaveUp)
	w.service.breakShells(w.failed)
	if w.told != nil {
		w.reason = errors.Join(w.reason, w.failed)
	}
	return w.ended(w.failed)
}

// ended is the outcome under the status that the task's life has: what the guest has told, or without that
// err, with the log as far as it came. An abort waits for none of the log: it is open as long as the task
// goes on, and nobody has asked that to end.
func (w *watcher) ended(err error) domain.Outcome {
	status := w.status()
	if w.told != nil {
		outcome := *w.told
		outcome.Status = status
		outcome.Err = errors.Join(w.reason, outcome.Err)
		if status == domain.StatusAborted {
			outcome.Err = errors.Join(domain.ErrSandboxAborted, outcome.Err)
		}
		return outcome
	}
	outcome := domain.Outcome{Status: status, Err: errors.Join(w.reason, err)}
	if status == domain.StatusAborted {
		outcome.Log = w.service.giveUp(0)
	} else {
		outcome.Log = w.service.CloseLog()
	}
	return outcome
}
