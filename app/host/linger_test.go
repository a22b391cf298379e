package host_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// shellGuest is a guest that serves shells, and does with its task what the test says.
type shellGuest struct {
	shells chan *hostShell // each shell that it is asked for is one of these
	result chan domain.Result
	die    chan error
	deaf   bool          // it doesn't end its task when it is told to
	hangs  chan struct{} // gets a word for each file that it is asked for, which it never sends
}

func newShellGuest() *shellGuest {
	return &shellGuest{
		shells: make(chan *hostShell, 10), result: make(chan domain.Result, 1), die: make(chan error, 1), hangs: make(chan struct{}, 10),
	}
}

func (g *shellGuest) run(ctx context.Context, api ports.GuestAPI) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case result := <-g.result:
			api.Resolve(ctx, result)
		case <-ctx.Done():
		}
	}()
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		g.poll(ctx, api)
	}()
	defer func() { <-polled }()
	defer stop()
	select {
	case err := <-g.die:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (g *shellGuest) poll(ctx context.Context, api ports.GuestAPI) {
	for ctx.Err() == nil {
		var action domain.Action
		if api.Poll(ctx, func(a domain.Action) error { action = a; return nil }) != nil {
			return
		}
		switch action.Kind() {
		case domain.KindExecShell:
			go api.Shell(context.WithoutCancel(ctx), action.ID(), (<-g.shells).connected()) // a hijacked connection's
		case domain.KindGetArtifact:
			g.hangs <- struct{}{}
		case domain.KindKillProcess:
			if !g.deaf {
				g.result <- domain.Result{Report: report(137, domain.ReasonKilled)}
			}
			api.Killed(ctx, action.ID())
		}
	}
}

// lingering is a task with a shell open.
type lingering struct {
	*testing.T
	guest   *shellGuest
	sandbox *host.Sandbox
	start   time.Time
}

// shell opens one more.
func (l *lingering) shell() (*hostShell, ports.ShellSession) {
	l.Helper()
	fake := newHostShell()
	l.guest.shells <- fake
	session, err := l.sandbox.OpenShell(l.Context(), domain.ShellSpec{})
	if err != nil {
		l.Fatal(err)
	}
	return fake, session
}

// resolve has the guest report a success, and waits until that has sunk in.
func (l *lingering) resolve() {
	l.guest.result <- domain.Result{Success: true}
	<-l.sandbox.Task().Service().Settled()
	synctest.Wait()
}

// refused checks that no shell can be opened.
func (l *lingering) refused(want error) {
	l.Helper()
	if _, err := l.sandbox.NewShell(l.Context(), nil, false); err != want {
		l.Errorf("NewShell: %v, want %v", err, want)
	}
}

// goesOn checks that nobody is told a result yet.
func (l *lingering) goesOn() {
	l.Helper()
	synctest.Wait()
	select {
	case <-l.sandbox.Task().Done():
		l.Fatal("the sandbox has ended")
	default:
	}
}

func (l *lingering) aborted(session ports.ShellSession) {
	l.Helper()
	if _, err := session.Wait(); err != domain.ErrShellAborted {
		l.Errorf("the shell ended by %v", err)
	}
}

func (l *lingering) broken(session ports.ShellSession, why error) {
	l.Helper()
	_, err := session.Wait()
	wantError(l.T, err, []error{domain.ErrNonFatalInternalError, why})
}

func TestASandboxWaitsForItsShells(t *testing.T) {
	panicked := errors.New("kernel panic")
	tests := []struct {
		name    string
		timeout time.Duration
		act     func(l *lingering)
		status  domain.Status
		took    time.Duration
		result  bool // the guest's own
		words   []string
	}{
		{
			name: "the result comes before the shell's end",
			act: func(l *lingering) {
				fake, session := l.shell()
				l.resolve()
				time.Sleep(time.Hour)
				l.goesOn()
				fake.exits(false, 1)
				if success, err := session.Wait(); success || err != nil {
					l.Errorf("%v, %v", success, err)
				}
			},
			status: domain.StatusSuccess, took: time.Hour, result: true,
		},
		{
			name: "another shell is opened meanwhile",
			act: func(l *lingering) {
				first, _ := l.shell()
				l.resolve()
				second, _ := l.shell()
				first.exits(true, 0)
				l.goesOn()
				third, _ := l.shell()
				second.exits(true, 0)
				l.goesOn()
				third.exits(true, 0)
			},
			status: domain.StatusSuccess, result: true,
		},
		{
			name: "a shell that can't be opened counts no longer than it is tried",
			act: func(l *lingering) {
				ctx, cancel := context.WithCancel(l.Context())
				cancel()
				if shell, err := l.sandbox.NewShell(ctx, nil, false); shell != nil || !errors.Is(err, context.Canceled) {
					l.Errorf("NewShell: %v, %v", shell, err)
				}
				l.goesOn()
				l.resolve()
			},
			status: domain.StatusSuccess, result: true,
		},
		{
			name: "the time-out is over for a task that has its result", timeout: time.Minute,
			act: func(l *lingering) {
				fake, session := l.shell()
				l.resolve()
				time.Sleep(time.Hour)
				l.goesOn()
				fake.exits(true, 0)
				if success, err := session.Wait(); !success || err != nil {
					l.Errorf("%v, %v", success, err)
				}
			},
			status: domain.StatusSuccess, took: time.Hour, result: true,
		},
		{
			name: "a time-out ends shells", timeout: time.Minute,
			act: func(l *lingering) {
				_, session := l.shell()
				l.aborted(session)
				l.refused(domain.ErrSandboxTerminated)
			},
			status: domain.StatusTimedOut, took: time.Minute, result: true, words: []string{"time is over"},
		},
		{
			name: "killed while the task runs",
			act: func(l *lingering) {
				fake, session := l.shell()
				fake.dying = 6 * time.Second // for as long as the guest may take
				kill(l.sandbox.Task())
				l.refused(domain.ErrSandboxTerminated)
				l.aborted(session)
				l.goesOn()
			},
			status: domain.StatusKilled, took: 6 * time.Second, result: true,
		},
		{
			name: "killed while a shell lingers",
			act: func(l *lingering) {
				_, session := l.shell()
				l.resolve()
				kill(l.sandbox.Task())
				l.refused(domain.ErrSandboxTerminated)
				l.aborted(session)
			},
			status: domain.StatusKilled, result: true,
		},
		{
			name: "killed, and a lingering shell won't end",
			act: func(l *lingering) {
				fake, _ := l.shell()
				fake.dying = time.Hour
				l.resolve()
				kill(l.sandbox.Task())
				<-l.sandbox.Task().Done()
				synctest.Wait()
				if !fake.gone() {
					l.Error("the shell's connection is there still")
				}
			},
			status: domain.StatusKilled, took: 15 * time.Second, result: true, words: []string{"did not end its task and its shells within 15s"},
		},
		{
			name: "killed, and the guest is deaf",
			act: func(l *lingering) {
				l.guest.deaf = true
				_, session := l.shell()
				kill(l.sandbox.Task())
				l.aborted(session)
			},
			status: domain.StatusKilled, took: 15 * time.Second, words: []string{"within 15s"},
		},
		{
			name: "the machine dies",
			act: func(l *lingering) {
				_, session := l.shell()
				l.guest.die <- panicked
				l.broken(session, panicked)
				synctest.Wait()
				l.refused(domain.ErrSandboxTerminated)
			},
			status: domain.StatusMachineDied, words: []string{"kernel panic"},
		},
		{
			name: "the machine dies while a shell lingers",
			act: func(l *lingering) {
				_, session := l.shell()
				l.resolve()
				l.guest.die <- panicked
				l.broken(session, panicked)
			},
			status: domain.StatusSuccess, result: true,
		},
		{
			name: "aborted",
			act: func(l *lingering) {
				_, session := l.shell()
				if err := l.sandbox.Abort(); err != nil {
					l.Error(err)
				}
				l.aborted(session)
				l.refused(domain.ErrSandboxAborted)
			},
			status: domain.StatusAborted, words: []string{"aborted"},
		},
		{
			name: "aborted while a shell lingers, which won't end",
			act: func(l *lingering) {
				fake, session := l.shell()
				fake.dying = time.Hour
				l.resolve()
				if err := l.sandbox.Abort(); err != nil {
					l.Error(err)
				}
				l.aborted(session)
				if !fake.gone() {
					l.Error("after Abort the shell goes on")
				}
			},
			status: domain.StatusAborted, result: true, words: []string{"aborted"},
		},
		{
			name: "released while a shell lingers",
			act: func(l *lingering) {
				_, session := l.shell()
				l.resolve()
				if err := l.sandbox.Release(l.Context()); err != nil {
					l.Error(err)
				}
				l.aborted(session)
			},
			status: domain.StatusAborted, result: true, words: []string{"aborted"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				guest := newShellGuest()
				engine, m := newEngine(t, guest.run)
				l := &lingering{T: t, guest: guest, start: time.Now()}
				l.sandbox = startWith(t, engine, host.Payload{Execute: domain.Execute{Command: []string{"true"}}, Timeout: test.timeout})
				test.act(l)
				outcome, err := l.sandbox.Task().Wait(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(l.start); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				if outcome.Status != test.status || (outcome.Result != nil) != test.result {
					t.Errorf("outcome %+v", outcome)
				}
				if len(test.words) > 0 {
					wantError(t, outcome.Err, nil, test.words...)
				} else if outcome.Err != nil {
					t.Errorf("the outcome has an error: %v", outcome.Err)
				}
				tooLate := domain.ErrSandboxTerminated
				if test.status == domain.StatusAborted {
					tooLate = domain.ErrSandboxAborted
				}
				l.refused(tooLate)
				if err := l.sandbox.Kill(); err != tooLate {
					t.Errorf("Kill: %v", err)
				}
				if err := l.sandbox.Release(t.Context()); err != nil {
					t.Error(err)
				}
				if m.booted != 1 || m.stopped != 1 {
					t.Errorf("booted %d times, stopped %d times", m.booted, m.stopped)
				}
			})
		})
	}
}

func startWith(t *testing.T, engine *host.Engine, payload host.Payload) *host.Sandbox {
	t.Helper()
	builder, err := engine.Build(payload, nil)
	if err != nil {
		t.Fatal(err)
	}
	sandbox, err := builder.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sandbox
}

// The ancestor held one lock during an action that took 30 s, which blocked every other.
func TestShellsAndKillsDontWaitForAnActionThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guest := newShellGuest()
		engine, _ := newEngine(t, guest.run)
		l := &lingering{T: t, guest: guest}
		l.sandbox = startWith(t, engine, host.Payload{Execute: domain.Execute{Command: []string{"true"}}})
		fetched := make(chan error, 1)
		go func() {
			_, err := l.sandbox.Task().Service().Fetch(t.Context(), "/x", &memory{})
			fetched <- err
		}()
		<-guest.hangs
		start := time.Now()
		fake, session := l.shell()
		second, _ := l.shell()
		second.exits(true, 0)
		kill(l.sandbox.Task())
		l.aborted(session)
		if _, err := l.sandbox.WaitForResult(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 0 || !fake.gone() {
			t.Errorf("it took %s", took)
		}
		select {
		case err := <-fetched:
			t.Errorf("the action that hangs has ended by %v", err)
		default:
		}
		if err := l.sandbox.Release(t.Context()); err != nil {
			t.Error(err)
		}
		<-fetched
	})
}

// What the boot takes is not the shell's fault.
func TestAShellWaitsForTheBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guest := newShellGuest()
		engine, _ := newEngine(t, func(ctx context.Context, api ports.GuestAPI) error {
			select {
			case <-time.After(time.Hour):
				return guest.run(ctx, api)
			case <-ctx.Done():
				return nil
			}
		})
		l := &lingering{T: t, guest: guest}
		l.sandbox = startWith(t, engine, host.Payload{Execute: domain.Execute{Command: []string{"true"}}})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("it boots too long"))
		defer cancel()
		_, err := l.sandbox.OpenShell(ctx, domain.ShellSpec{})
		wantError(t, err, []error{context.Cause(ctx)}, "it boots too long")
		fake, _ := l.shell()
		fake.exits(true, 0)
		if err := l.sandbox.Abort(); err != nil {
			t.Error(err)
		}
	})
}
