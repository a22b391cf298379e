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

// Job is one task for one machine.
type Job struct {
	Config
	Machine ports.Machine
	Handler func(ports.GuestAPI) ports.Handler // how the service is put on the wire

	Timeout     time.Duration // of the task, from the boot on; 0 is none
	BootTimeout time.Duration // for the guest's first request; 0 is none
}

// killPatience is how long a guest may take to end its task, and to say so: it asks politely for 5 s
// before it kills.
const killPatience = 15 * time.Second

// ErrTimedOut is a task whose time was over.
var ErrTimedOut = errors.New("the task's time is over")

// Task is a job that was started. It ends with one Outcome; the guest stays up, for its files to be
// brought out, until Close. Safe for concurrent use.
type Task struct {
	service *Service
	guest   ports.Guest
	timeout time.Duration
	boot    time.Duration
	kill    func() // once
	abort   func() // once
	killed  chan struct{}
	aborted chan struct{}
	done    chan struct{}
	outcome domain.Outcome // before done is closed it is the watcher's
}

// Start boots the machine and watches over the task. ctx bounds the start alone. After an error
// nothing is left running.
func Start(ctx context.Context, job Job) (*Task, error) {
	service, err := New(job.Config)
	if err != nil {
		return nil, err
	}
	guest, err := job.Machine.Boot(ctx, job.Handler(service))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the machine did not start: %w", err), service.Close())
	}
	t := &Task{
		service: service,
		guest:   guest,
		timeout: job.Timeout,
		boot:    job.BootTimeout,
		killed:  make(chan struct{}),
		aborted: make(chan struct{}),
		done:    make(chan struct{}),
	}
	t.kill = sync.OnceFunc(func() { close(t.killed) })
	t.abort = sync.OnceFunc(func() { close(t.aborted) })
	go func() { // ends with the outcome; Close waits for it
		defer close(t.done)
		t.outcome = t.watch()
	}()
	return t, nil
}

// Service is what asks the guest for things: its files, until Close.
func (t *Task) Service() *Service { return t.service }

// Done is closed when the task has ended.
func (t *Task) Done() <-chan struct{} { return t.done }

// Gone is closed when the guest's machine has ended: nothing can be brought out of it any more.
func (t *Task) Gone() <-chan struct{} { return t.guest.Done() }

// Wait waits for the task's end. The error is ctx's cause.
func (t *Task) Wait(ctx context.Context) (domain.Outcome, error) {
	select {
	case <-t.done:
		return t.outcome, nil
	case <-ctx.Done():
		return domain.Outcome{}, context.Cause(ctx)
	}
}

// Kill has the guest end the task, and doesn't wait: the outcome is StatusKilled, unless the task has
// ended already. The guest stays up.
func (t *Task) Kill() { t.kill() }

// Abort gives the task up at once, and doesn't wait: the outcome is StatusAborted, unless the task has
// ended already. The guest is left to Close.
func (t *Task) Abort() { t.abort() }

// Close aborts the task if it goes on, stops the guest and releases everything; it returns when
// nothing is left. Once ctx ends the guest is killed. Any number of times.
func (t *Task) Close(ctx context.Context) error {
	t.abort()
	<-t.done
	t.service.StopPolls()
	err := t.guest.Stop(ctx)
	return errors.Join(err, t.service.Close())
}

// watch waits for the first thing that ends the task.
func (t *Task) watch() domain.Outcome {
	timeout, stop := after(t.timeout)
	defer stop()
	boot, stop := after(t.boot)
	defer stop()
	called := t.service.Called()
	for {
		select {
		case <-t.service.Settled():
			return t.settled()
		case <-t.killed:
			return t.end(domain.StatusKilled, nil)
		case <-timeout:
			return t.end(domain.StatusTimedOut, fmt.Errorf("%w: it had %s", ErrTimedOut, t.timeout))
		case <-t.aborted:
			return t.giveUp(domain.StatusAborted, domain.ErrSandboxAborted)
		case <-t.guest.Done():
			return t.giveUp(domain.StatusMachineDied, t.machineDied())
		case <-t.service.Lost():
			return t.giveUp(domain.StatusGuestLost, domain.ErrGuestLost)
		case <-called:
			called, boot = nil, nil
		case <-boot:
			return t.giveUp(domain.StatusMachineDied,
				fmt.Errorf("the guest did not call its host within %s: are guest-tools running in it, and do they reach the metadata address?", t.boot))
		}
	}
}

// after is a channel that fires after d, or never if d is 0.
func after(d time.Duration) (<-chan time.Time, func()) {
	if d <= 0 {
		return nil, func() {}
	}
	timer := time.NewTimer(d)
	return timer.C, func() { timer.Stop() }
}

func (t *Task) machineDied() error {
	if err := t.guest.Err(); err != nil {
		return fmt.Errorf("the guest's machine ended before the task did: %w", err)
	}
	return errors.New("the guest's machine ended before the task did")
}

// settled is the outcome that the guest reported.
func (t *Task) settled() domain.Outcome {
	outcome, err := t.service.Outcome(context.Background())
	if err != nil { // only a closed service, and Close waits for us
		return t.closed(domain.StatusAborted, err)
	}
	return outcome
}

// giveUp ends a task whose guest has nothing more to say. A result that it reported before counts: the
// log's end is then close.
func (t *Task) giveUp(status domain.Status, err error) domain.Outcome {
	if status == domain.StatusAborted || !t.service.Resolved() {
		return t.closed(status, err)
	}
	select {
	case <-t.service.Settled():
		return t.settled()
	case <-t.aborted:
		return t.closed(domain.StatusAborted, domain.ErrSandboxAborted)
	}
}

// end has the guest end its task, and waits for what it then reports. The log goes on until then:
// what a program says when it is ended is often why.
func (t *Task) end(status domain.Status, reason error) domain.Outcome {
	ctx, cancel := context.WithTimeoutCause(context.Background(), killPatience,
		fmt.Errorf("the guest did not end its task within %s", killPatience))
	asked := make(chan error, 1)
	var asking sync.WaitGroup
	asking.Go(func() { asked <- t.service.Kill(ctx) })
	defer func() {
		cancel()
		asking.Wait()
	}()
	var failed error
	for {
		select {
		case <-t.service.Settled():
			outcome := t.settled()
			outcome.Status = status
			outcome.Err = errors.Join(reason, outcome.Err)
			return outcome
		case failed = <-asked:
			asked = nil
		case <-t.guest.Done():
			return t.closed(status, errors.Join(reason, t.machineDied()))
		case <-t.aborted:
			return t.closed(status, errors.Join(reason, domain.ErrSandboxAborted))
		case <-ctx.Done():
			if failed == nil {
				failed = context.Cause(ctx)
			}
			return t.closed(status, errors.Join(reason, failed))
		}
	}
}

// closed is an outcome without a result, with the log as far as it came.
func (t *Task) closed(status domain.Status, err error) domain.Outcome {
	return domain.Outcome{Status: status, Log: t.service.CloseLog(), Err: err}
}
