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
	Machine        ports.Machine
	MachineOptions []byte                             // for the machine, in its own words
	Handler        func(ports.GuestAPI) ports.Handler // how the service is put on the wire

	Timeout     time.Duration // of the task, once its machine is booted; 0 is none
	BootTimeout time.Duration // for the machine to start, and then for the guest's first request; 0 is none
}

// killPatience is how long a guest may take to end its task, and to say so: it asks politely for 5 s
// before it kills.
const killPatience = 15 * time.Second

// ErrTimedOut is a task whose time was over.
var ErrTimedOut = errors.New("the task's time is over")

// Task is a job that was started. It ends with one Outcome, once its shells have ended too; the guest stays up, for its files to be
// brought out, until Close. Safe for concurrent use.
type Task struct {
	service *Service
	guest   ports.Guest
	timeout time.Duration
	boot    time.Duration
	killed  chan struct{} // closed when the guest is to be asked to end the task and its shells
	aborted chan struct{} // closed by the first Abort
	alone   chan struct{} // closed when the last shell's end has ended the task's life
	done    chan struct{}
	outcome domain.Outcome // before done is closed it is the watcher's

	mu    sync.Mutex // guards what follows
	life  domain.Life
	after func() // to be called when done is closed; nil is nothing
}

// Start boots the machine and watches over the task. ctx bounds the start alone. After an error
// nothing is left running.
func Start(ctx context.Context, job Job) (*Task, error) {
	var life domain.Life
	if err := life.Start(); err != nil {
		return nil, err
	}
	return start(ctx, job, life)
}

// start goes on with a life that was begun.
func start(ctx context.Context, job Job, life domain.Life) (*Task, error) {
	_, job.Config.handsOver = job.Machine.(ports.MachineWithToken)
	service, err := New(job.Config)
	if err != nil {
		return nil, err
	}
	guest, err := job.boot(ctx, ports.BootOptions{
		Handler: job.Handler(service), Options: job.MachineOptions, Token: service.machineToken().Reveal(),
	})
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
		alone:   make(chan struct{}),
		done:    make(chan struct{}),
		life:    life,
	}
	t.life.Happen(domain.EventStarted)
	go func() { // ends with the outcome; Close waits for it
		t.outcome = t.watch()
		t.mu.Lock()
		close(t.done)
		after := t.after
		t.mu.Unlock()
		if after != nil {
			after()
		}
	}()
	return t, nil
}

// afterDone has f called when the task has ended, which may be now. It is called once in a task's life, and f doesn't
// block.
func (t *Task) afterDone(f func()) {
	t.mu.Lock()
	select {
	case <-t.done:
		defer f()
	default:
		t.after = f
	}
	t.mu.Unlock()
}

// boot has the machine boot, in its time: it may have disks to look at first.
func (j Job) boot(ctx context.Context, options ports.BootOptions) (ports.Guest, error) {
	if j.BootTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.BootTimeout, fmt.Errorf("it took longer than its BootTimeout of %s", j.BootTimeout))
		defer cancel()
	}
	return j.Machine.Boot(ctx, options)
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

// Kill has the guest end the task and its shells, and doesn't wait: the outcome is StatusKilled. The guest
// stays up.
// Again is nil. ErrSandboxTerminated and ErrSandboxAborted come too late, and change nothing.
func (t *Task) Kill() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	ask, err := t.life.Kill()
	if ask {
		close(t.killed)
	}
	return err
}

// Abort gives the task up at once, and doesn't wait: the outcome is StatusAborted. The guest is left to
// Close. ErrSandboxTerminated and ErrSandboxAborted come too late, and change nothing.
func (t *Task) Abort() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.life.Abort()
	if err == nil {
		close(t.aborted)
	}
	return err
}

// OpenShell is Service.OpenShell for as long as the task goes on, or another shell does. While the machine
// boots it waits for the guest's first request. ErrSandboxAborted and ErrSandboxTerminated come too late.
func (t *Task) OpenShell(ctx context.Context, spec domain.ShellSpec) (ports.ShellSession, error) {
	if err := t.enterShell(); err != nil {
		return nil, err
	}
	select {
	case <-t.service.Called():
	case <-t.service.shells.over(): // OpenShell tells why
	case <-ctx.Done(): // so it does of this
	}
	shell, err := t.service.openShell(ctx, spec, t.shellEnded)
	if errors.Is(err, domain.ErrSandboxTerminated) {
		return nil, t.shellRefused()
	}
	return shell, err
}

func (t *Task) enterShell() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.life.OpenShell()
}

func (t *Task) shellEnded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life.ShellEnded() {
		close(t.alone)
	}
}

// shellRefused is what became of the task where a shell came too late.
func (t *Task) shellRefused() error {
	if t.status() == domain.StatusAborted {
		return domain.ErrSandboxAborted
	}
	return domain.ErrSandboxTerminated
}

// dispose notes that a task that has ended isn't needed any more, and tells whether it was until now.
func (t *Task) dispose() (first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first, err := t.life.Dispose()
	return first && err == nil
}

// Close aborts the task if it goes on, stops the guest and releases everything; it returns when
// nothing is left. Once ctx ends the guest is killed. Any number of times.
func (t *Task) Close(ctx context.Context) error {
	_ = t.Abort() // too late is fine
	<-t.done
	t.service.StopPolls()
	err := t.guest.Stop(ctx)
	return errors.Join(err, t.service.Close())
}

// happen notes an event in the task's life.
func (t *Task) happen(event domain.Event) (ended, ask bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.life.Happen(event)
}

// status is what the life made of all that happened.
func (t *Task) status() domain.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	status, _ := t.life.Status()
	return status
}
