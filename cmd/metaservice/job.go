package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/tempfiles"
	"github.com/hexworker/metaservice/adapters/uuids"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// stopPatience is how long a machine may take to end politely.
const stopPatience = 10 * time.Second

// job is one run of a task, in whatever machine: run and serve differ in that alone.
type job struct {
	machine     ports.Machine
	execute     domain.Execute
	timeout     time.Duration
	bootTimeout time.Duration
	artifacts   []artifact
	fetching    time.Duration // for all artifacts together; 0 is without limit
	limits      domain.Limits
	token       domain.TokenMode
	record      *record
	json        string
	beside      *console // a shell beside the task; nil is none
	words       *slog.Logger
	inner       *slog.Logger // of the host
	out, say    *outlet      // standard output and error
	interrupts  *interrupts
}

func newJob(around *setting, machine ports.Machine, execute domain.Execute, limits domain.Limits, record *record) *job {
	return &job{
		machine:     machine,
		execute:     execute,
		bootTimeout: around.boot,
		limits:      limits,
		record:      record,
		words:       around.words,
		inner:       around.inner,
		out:         around.out,
		say:         around.say,
		interrupts:  around.signals,
	}
}

// ended is a job that is over, with all that is known of it.
type ended struct {
	outcome   domain.Outcome
	artifacts []fetched
	begun     time.Time
	took      time.Duration // the task, without its artifacts
	logErr    error         // of the record
	reasons   []error       // why it isn't a success, where that isn't the task's own doing
}

// run runs the task to its end, fetches its artifacts, and leaves nothing behind. It returns the exit
// status.
func (j *job) run() int {
	e := ended{begun: time.Now()}
	if j.timeout > 0 {
		defer time.AfterFunc(j.timeout, j.out.hurry).Stop()
	}
	engine, sandbox, err := j.start()
	if err != nil {
		e.outcome = domain.Outcome{Status: domain.StatusMachineDied, Err: err}
		if j.interrupts.came() != 0 {
			e.outcome.Status = domain.StatusAborted
		}
		e.took = time.Since(e.begun)
		j.skip(&e, errors.New("the guest never started"))
	} else {
		task := sandbox.Task()
		shown := j.openBeside(sandbox)
		e.outcome = j.watch(task)
		<-shown
		e.took = time.Since(e.begun)
		j.out.giveUp() // the log is closed: only what nobody reads is still on its way
		j.collect(&e, task)
		if err := j.stop(engine, sandbox); err != nil {
			e.reasons = append(e.reasons, fmt.Errorf("the machine did not end as it should: %w", err))
		}
	}
	e.logErr = j.record.close()
	status := j.judge(&e)
	if j.json != "" {
		if err := newResult(e).write(j.json); err != nil {
			j.words.Error(err.Error())
			status = failUnless(status)
		}
	}
	return status
}

// openBeside opens the shell beside the task, if there is to be one. What it returns is closed when the shell
// is over and what it held back of the log is shown.
func (j *job) openBeside(sandbox *host.Sandbox) <-chan struct{} {
	shown := make(chan struct{})
	if j.beside == nil {
		close(shown)
		return shown
	}
	go func() { // ends with the shell, which ends with the task's guest, or with signals
		defer close(shown)
		defer j.record.release()
		session, err := j.beside.open(sandbox)
		if err == nil {
			_, err = j.beside.attach(session).verdict()
		}
		if err != nil && !isClosed(sandbox.Task().Done()) && j.interrupts.came() == 0 { // or else that is what there is to tell
			j.words.Error(fmt.Sprintf("the shell beside the task: %v", err))
		}
	}()
	return shown
}

// start starts a sandbox, the only one of its engine: a worker's tasks run in no other way.
func (j *job) start() (*host.Engine, *host.Sandbox, error) {
	ctx, cancel := until(j.interrupts.first)
	defer cancel()
	storage, err := tempfiles.New("")
	if err != nil {
		return nil, nil, err
	}
	engine, err := host.NewEngine(host.EngineConfig{
		Machine: j.machine,
		Handler: func(api ports.GuestAPI, _ map[string]ports.Handler) ports.Handler {
			return chiapi.New(api, j.inner)
		},
		Storage:        storage,
		IDs:            uuids.Random{},
		Logger:         j.inner,
		Limits:         j.limits,
		Token:          j.token,
		MaxConcurrency: 1,
		BootTimeout:    j.bootTimeout,
		StopTimeout:    stopPatience,
	})
	if err != nil {
		return nil, nil, err
	}
	builder, err := engine.Build(host.Payload{Execute: j.execute, Timeout: j.timeout}, j.record)
	if err != nil {
		return nil, nil, err
	}
	sandbox, err := builder.Start(ctx)
	return engine, sandbox, err
}

// watch waits for the task's end, and brings it about where a signal or a log that can't be kept asks
// for it.
func (j *job) watch(task *host.Task) domain.Outcome {
	first, second, failed := j.interrupts.first, j.interrupts.second, j.record.failed
	for {
		select {
		case <-task.Done():
			outcome, _ := task.Wait(context.Background()) // it has ended
			return outcome
		case <-first:
			first = nil
			if !isClosed(task.Service().Called()) { // nobody is there who could end anything
				_ = task.Abort() // too late is fine, here and below
				continue
			}
			j.tell("%s: ending the task; once more to give it up at once", signalName(j.interrupts.came()))
			_ = task.Kill()
		case <-second:
			second = nil
			_ = task.Abort()
		case <-failed:
			failed = nil
			_ = task.Kill()
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// collect fetches the artifacts one after the other: each uses the whole line.
func (j *job) collect(e *ended, task *host.Task) {
	switch e.outcome.Status {
	case domain.StatusAborted:
		j.skip(e, errInterrupted)
		return
	case domain.StatusGuestLost, domain.StatusMachineDied:
		j.skip(e, errors.New("there is no guest any more to fetch it from"))
		return
	}
	if !isClosed(task.Service().Called()) {
		j.skip(e, errors.New("no guest has ever called"))
		return
	}
	ctx, cancel := until(j.interrupts.next())
	defer cancel()
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	if j.fetching > 0 { // a guest that drips is never slow enough for Limits, and would hold us for ever
		defer time.AfterFunc(j.fetching, func() {
			lose(fmt.Errorf("the time for the artifacts is over: they had %s, and --artifact-timeout gives them more", j.fetching))
		}).Stop()
	}
	go func() { // ends with ctx
		select {
		case <-task.Gone():
			lose(errors.New("the guest's machine has ended"))
		case <-task.Service().Lost():
			lose(domain.ErrGuestLost)
		case <-ctx.Done():
		}
	}()
	for i, a := range j.artifacts {
		if ctx.Err() != nil {
			j.artifacts = j.artifacts[i:]
			j.skip(e, context.Cause(ctx))
			return
		}
		meter := newMeter(j.say, a.path)
		f := fetch(ctx, task.Service(), a, meter.show)
		meter.end()
		if cause := context.Cause(ctx); f.Err != nil && cause != nil && !errors.Is(f.Err, cause) {
			f.Err = errors.Join(cause, f.Err) // it ended between two files, which none of them tells
		}
		j.settle(e, f)
		if errors.Is(f.Err, domain.ErrNoPoll) { // nor would it for the others
			lose(errors.New("the guest does not answer any more"))
		}
	}
}

// skip settles all artifacts as not fetched.
func (j *job) skip(e *ended, why error) {
	for _, a := range j.artifacts {
		f := fetched{artifact: a}
		f.Err = why
		j.settle(e, f)
	}
}

// settle takes one artifact into the account, and tells of it.
func (j *job) settle(e *ended, f fetched) {
	e.artifacts = append(e.artifacts, f)
	if f.Files > 0 || f.Err == nil {
		j.tell("fetched %s to %s: %s", f.path, f.target, amount(f.Files, f.Bytes))
	}
	if f.Err == nil {
		return
	}
	err := fmt.Errorf("artifact %s was not fetched: %w", domain.Quote(f.path), withHint(f.Err))
	switch {
	case f.Files > 0:
		err = fmt.Errorf("artifact %s is incomplete: %w", domain.Quote(f.path), withHint(f.Err))
	case f.Missing:
		err = fmt.Errorf("artifact %s was not fetched: there is no such file or folder in the guest", domain.Quote(f.path))
	}
	e.reasons = append(e.reasons, err)
}

// stop stops the machine, at once if one more signal comes.
func (j *job) stop(engine *host.Engine, sandbox *host.Sandbox) error {
	ctx, cancel := until(j.interrupts.next())
	defer cancel()
	return errors.Join(sandbox.Release(ctx), engine.Dispose(context.Background()))
}

// tell says something on standard error.
func (j *job) tell(format string, args ...any) {
	fmt.Fprintln(j.say, "metaservice: "+plain(fmt.Sprintf(format, args...)))
}
