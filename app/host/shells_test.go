package host_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// hostShell is a ports.HostShell whose guest is the test: exit ends it, and an abort does after dying.
type hostShell struct {
	terms ports.ShellTerms
	dying time.Duration // until the guest has ended an aborted one
	exit  chan domain.Result

	mu     sync.Mutex // guards what follows
	ended  bool
	result domain.Result
	err    error
	done   chan struct{} // closed with ended
	abort  chan struct{} // closed by the first Abort
	served bool          // Serve has returned
}

func newHostShell() *hostShell {
	return &hostShell{exit: make(chan domain.Result, 1), done: make(chan struct{}), abort: make(chan struct{})}
}

func (h *hostShell) end(result domain.Result, err error) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if first = !h.ended; first {
		h.ended, h.result, h.err = true, result, err
		close(h.done)
	}
	return first
}

func (h *hostShell) Serve(ctx context.Context) {
	select {
	case result := <-h.exit:
		h.end(result, nil)
	case <-h.abort:
		dead := time.NewTimer(h.dying)
		defer dead.Stop()
		select {
		case <-dead.C:
		case <-ctx.Done():
		}
	case <-ctx.Done():
		h.end(domain.Result{}, fmt.Errorf("%w: %w", domain.ErrNonFatalInternalError, context.Cause(ctx)))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.served = true
}

func (h *hostShell) gone() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.served
}

func (h *hostShell) Abort() error { return h.abortWith(domain.Result{}, domain.ErrShellAborted) }

func (h *hostShell) Expire(result domain.Result) error { return h.abortWith(result, nil) }

func (h *hostShell) abortWith(result domain.Result, err error) error {
	if h.end(result, err) {
		close(h.abort)
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == domain.ErrShellAborted {
		return h.err
	}
	return domain.ErrShellTerminated
}

func (h *hostShell) Done() <-chan struct{} { return h.done }

func (h *hostShell) Wait() (bool, error) {
	result, err := h.Result(context.Background())
	return result.Success, err
}

func (h *hostShell) Result(ctx context.Context) (domain.Result, error) {
	select {
	case <-h.done:
		return h.result, h.err
	case <-ctx.Done():
		return domain.Result{}, context.Cause(ctx)
	}
}

func (h *hostShell) StdinPipe() io.WriteCloser    { return nil }
func (h *hostShell) StdoutPipe() io.ReadCloser    { return nil }
func (h *hostShell) StderrPipe() io.ReadCloser    { return nil }
func (h *hostShell) SetSize(uint16, uint16) error { return nil }
func (h *hostShell) exits(success bool, code int) {
	h.exit <- domain.Result{Success: success, Report: report(code, domain.ReasonExited)}
}
func (h *hostShell) connected() connector {
	return func(t ports.ShellTerms) (ports.HostShell, error) { h.terms = t; return h, nil }
}

type connector = func(ports.ShellTerms) (ports.HostShell, error)

type openedShell struct {
	session ports.ShellSession
	err     error
}

// open asks for a shell on a goroutine of its own.
func open(ctx context.Context, s *host.Service, spec domain.ShellSpec) <-chan openedShell {
	got := make(chan openedShell, 1)
	go func() {
		session, err := s.OpenShell(ctx, spec)
		got <- openedShell{session, err}
	}()
	return got
}

// serve answers one exec-shell, on a goroutine of its own.
func serve(t *testing.T, s *host.Service, connect connector) <-chan error {
	t.Helper()
	action := take(t, s)
	if action.Kind() != domain.KindExecShell {
		t.Errorf("the poll brought %s", action)
	}
	done := make(chan error, 1)
	go func() { done <- s.Shell(context.Background(), action.ID(), connect) }()
	return done
}

// openOne opens a shell and has it served.
func openOne(t *testing.T, s *host.Service, spec domain.ShellSpec) (*hostShell, ports.ShellSession, <-chan error) {
	t.Helper()
	fake := newHostShell()
	got := open(t.Context(), s, spec)
	served := serve(t, s, fake.connected())
	opened := <-got
	if opened.err != nil {
		t.Fatal(opened.err)
	}
	return fake, opened.session, served
}

func TestAShell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		spec := domain.ShellSpec{Command: []string{"cat"}, TTY: true, Columns: 132, Rows: 50}
		fake, session, served := openOne(t, s, spec)
		if diff := cmp.Diff(spec, fake.terms.Spec); diff != "" {
			t.Errorf("the shell's spec: -want +got:\n%s", diff)
		}
		if got := fake.terms.Silence; got != domain.Defaults().Silence {
			t.Errorf("the guest may leave pings unanswered for %s", got)
		}
		// An open shell is a sign of life: its guest isn't lost, whatever it polls.
		time.Sleep(time.Hour)
		select {
		case <-s.Lost():
			t.Error("the guest is lost, with a shell open")
		case <-session.Done():
			t.Error("the shell has ended")
		default:
		}
		fake.exits(false, 3)
		result, err := session.Result(t.Context())
		if err != nil || result.Success || result.Report.ExitCode != 3 {
			t.Errorf("%+v, %v", result, err)
		}
		if err := <-served; err != nil {
			t.Errorf("Shell: %v", err)
		}
		if success, err := session.Wait(); success || err != nil {
			t.Errorf("Wait: %v, %v", success, err)
		}
		if err := session.Abort(); err != domain.ErrShellTerminated {
			t.Errorf("Abort: %v", err)
		}
	})
}

func TestAShellThatIsNotOpened(t *testing.T) {
	hello := func(features ...domain.Feature) domain.Hello {
		return domain.Hello{BootID: "1", Features: features}
	}
	gone, broken := errors.New("nobody wants it any more"), errors.New("the handshake broke")
	tests := []struct {
		name  string
		spec  domain.ShellSpec
		guest func(t *testing.T, s *host.Service, giveUp func())
		took  time.Duration
		is    []error
		words []string
		isnt  error
	}{
		{
			name: "a spec that can't be", spec: domain.ShellSpec{Timeout: -1},
			is: []error{domain.ErrInvalidAction}, isnt: domain.ErrNonFatalInternalError,
		},
		{
			name: "nobody polls", took: 30 * time.Second,
			is: []error{domain.ErrNonFatalInternalError, domain.ErrNoPoll},
		},
		{
			name: "nobody replies", took: 30 * time.Second,
			guest: func(t *testing.T, s *host.Service, _ func()) {
				first := take(t, s)
				if again := take(t, s); again.Kind() != domain.KindNone {
					t.Errorf("after %s came %s: a second try could run it twice", first, again)
				}
			},
			is: []error{domain.ErrNonFatalInternalError, domain.ErrNoReply},
		},
		{
			name: "polls are stopped",
			guest: func(t *testing.T, s *host.Service, _ func()) {
				synctest.Wait()
				s.StopPolls()
			},
			is: []error{domain.ErrNonFatalInternalError, domain.ErrNoPoll},
		},
		{
			name: "the handshake fails",
			guest: func(t *testing.T, s *host.Service, _ func()) {
				if err := <-serve(t, s, func(ports.ShellTerms) (ports.HostShell, error) { return nil, broken }); err != broken {
					t.Errorf("Shell: %v", err)
				}
			},
			is: []error{domain.ErrNonFatalInternalError, broken},
		},
		{
			name: "the handshake hangs", took: 30 * time.Second,
			guest: func(t *testing.T, s *host.Service, _ func()) {
				fake := newHostShell()
				<-serve(t, s, func(ports.ShellTerms) (ports.HostShell, error) {
					time.Sleep(time.Minute)
					return fake, nil
				})
				if _, err := fake.Wait(); err == nil || errors.Is(err, domain.ErrShellAborted) {
					t.Errorf("a shell that nobody waits for ended by %v", err)
				}
			},
			is: []error{domain.ErrNonFatalInternalError, domain.ErrNoReply}, words: []string{"handshake"},
		},
		{
			name: "the guest refuses",
			guest: func(t *testing.T, s *host.Service, _ func()) {
				s.Refuse(t.Context(), take(t, s).ID(), domain.ErrInvalidReply)
			},
			is: []error{domain.ErrNonFatalInternalError, domain.ErrInvalidReply},
		},
		{
			name: "given up on offer", took: time.Second,
			guest: func(_ *testing.T, _ *host.Service, giveUp func()) {
				time.Sleep(time.Second)
				giveUp()
			},
			is: []error{gone}, isnt: domain.ErrNonFatalInternalError,
		},
		{
			name: "given up with the guest", took: time.Second,
			guest: func(t *testing.T, s *host.Service, giveUp func()) {
				action := take(t, s)
				time.Sleep(time.Second)
				giveUp()
				synctest.Wait()
				never := func(ports.ShellTerms) (ports.HostShell, error) { panic("it was given up") }
				if err := s.Shell(t.Context(), action.ID(), never); err != domain.ErrUnknownAction {
					t.Errorf("Shell: %v", err)
				}
			},
			is: []error{gone},
		},
		{
			name: "given up amid the handshake",
			guest: func(t *testing.T, s *host.Service, giveUp func()) {
				fake := newHostShell()
				<-serve(t, s, func(ports.ShellTerms) (ports.HostShell, error) {
					giveUp()
					synctest.Wait()
					return fake, nil
				})
				if _, err := fake.Wait(); !fake.gone() || !errors.Is(err, domain.ErrNonFatalInternalError) {
					t.Errorf("the shell that came too late ended by %v", err)
				}
			},
			is: []error{gone},
		},
		{
			name: "shells are aborted", took: time.Second,
			guest: func(_ *testing.T, s *host.Service, _ func()) {
				time.Sleep(time.Second)
				s.AbortShells()
			},
			is: []error{domain.ErrSandboxTerminated}, isnt: domain.ErrNonFatalInternalError,
		},
		{
			name: "shells are aborted amid the handshake",
			guest: func(t *testing.T, s *host.Service, _ func()) {
				fake := newHostShell()
				<-serve(t, s, func(ports.ShellTerms) (ports.HostShell, error) {
					s.AbortShells()
					return fake, nil
				})
				if _, err := fake.Wait(); !errors.Is(err, domain.ErrSandboxTerminated) {
					t.Errorf("the shell that came too late ended by %v", err)
				}
			},
			is: []error{domain.ErrSandboxTerminated},
		},
		{
			name: "the service is closed", took: time.Second,
			guest: func(_ *testing.T, s *host.Service, _ func()) {
				time.Sleep(time.Second)
				s.Close()
			},
			is: []error{domain.ErrSandboxTerminated}, isnt: domain.ErrNonFatalInternalError,
		},
		{
			name: "a folder of a guest that never polls", spec: domain.ShellSpec{Dir: "/"}, took: time.Second,
			guest: func(t *testing.T, s *host.Service, giveUp func()) {
				if _, err := s.Hello(t.Context(), hello(domain.FeatureExec)); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				giveUp()
			},
			is: []error{gone},
		},
		{
			name: "a folder of a guest of version 1", spec: domain.ShellSpec{Dir: "/", Env: map[string]string{"A": "1"}}, took: time.Second,
			guest: func(t *testing.T, s *host.Service, _ func()) {
				time.Sleep(time.Second)
				if action := take(t, s); action.Kind() != domain.KindNone {
					t.Errorf("it was offered %s", action)
				}
			},
			is: []error{domain.ErrFeatureNotSupported}, isnt: domain.ErrNonFatalInternalError,
			words: []string{"too old", "an environment, a folder"},
		},
		{
			name: "a user of a guest without exec", spec: domain.ShellSpec{User: "root"},
			guest: func(t *testing.T, s *host.Service, _ func()) {
				if _, err := s.Hello(t.Context(), hello(domain.FeatureShell2)); err != nil {
					t.Error(err)
				}
				take(t, s)
			},
			is: []error{domain.ErrFeatureNotSupported}, words: []string{"too old", "a user"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, func(c *host.Config) { c.Limits.Shells = 1 })
				ctx, giveUp := context.WithCancelCause(t.Context())
				defer giveUp(nil)
				start := time.Now()
				got := open(ctx, s, test.spec)
				took := make(chan time.Duration, 1)
				back := make(chan openedShell, 1)
				go func() {
					opened := <-got
					took <- time.Since(start)
					back <- opened
				}()
				if test.guest != nil {
					test.guest(t, s, func() { giveUp(gone) })
				}
				opened := <-back
				wantError(t, opened.err, test.is, test.words...)
				if test.isnt != nil && errors.Is(opened.err, test.isnt) {
					t.Errorf("the error is %q: %v", test.isnt, opened.err)
				}
				if opened.session != nil {
					t.Error("beside its error there is a shell")
				}
				if took := <-took; took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				// It doesn't count any more: there is room for one.
				if errors.Is(opened.err, domain.ErrSandboxTerminated) || errors.Is(opened.err, domain.ErrNoPoll) {
					return
				}
				fake, session, served := openOne(t, s, domain.ShellSpec{})
				fake.exits(true, 0)
				if success, err := session.Wait(); !success || err != nil {
					t.Errorf("the next one: %v, %v", success, err)
				}
				<-served
			})
		})
	}
}

func TestAShellOfAGuestThatCanDoAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		spec := domain.ShellSpec{Dir: "/", User: "root", Env: map[string]string{"A": "1"}}
		got := open(t.Context(), s, spec)
		time.Sleep(time.Hour) // it boots, and nobody knows yet what it can do
		features, err := s.Hello(t.Context(), domain.Hello{BootID: "1", Features: domain.Features{domain.FeatureExec}})
		if err != nil || !features.Has(domain.FeatureExec) || !features.Has(domain.FeatureShell2) {
			t.Errorf("the host offers %v, %v", features, err)
		}
		fake := newHostShell()
		var served <-chan error
		for served == nil { // the first poll may find nothing yet: it is what the shell waits for
			if action := take(t, s); action.Kind() == domain.KindExecShell {
				done := make(chan error, 1)
				go func() { done <- s.Shell(context.Background(), action.ID(), fake.connected()) }()
				served = done
			}
		}
		opened := <-got
		if opened.err != nil {
			t.Fatal(opened.err)
		}
		if diff := cmp.Diff(spec, fake.terms.Spec); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		fake.exits(true, 0)
		<-served
	})
}

// A poll that died takes no shell along: the same action goes to the next one.
func TestAShellIsHandedOutAgainUnderItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		got := open(t.Context(), s, domain.ShellSpec{})
		var lost domain.Action
		broken := errors.New("the poll died")
		if err := s.Poll(t.Context(), func(a domain.Action) error { lost = a; return broken }); err != broken {
			t.Fatal(err)
		}
		again := take(t, s)
		if lost.Kind() != domain.KindExecShell || again.ID() != lost.ID() {
			t.Errorf("after %s came %s", lost, again)
		}
		fake := newHostShell()
		fake.exits(true, 0)
		if err := s.Shell(t.Context(), again.ID(), fake.connected()); err != nil {
			t.Error(err)
		}
		if opened := <-got; opened.err != nil {
			t.Error(opened.err)
		}
	})
}

func TestOnlyItsOwnReplyAnswersAShell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *host.Config) { c.Limits.Tries = 1 })
		got := open(t.Context(), s, domain.ShellSpec{})
		if err := s.Killed(t.Context(), take(t, s).ID()); !errors.Is(err, domain.ErrInvalidReply) {
			t.Errorf("Killed: %v", err)
		}
		wantError(t, (<-got).err, []error{domain.ErrNonFatalInternalError, domain.ErrInvalidReply})
		killed := make(chan error, 1)
		go func() { killed <- s.Kill(t.Context()) }()
		never := func(ports.ShellTerms) (ports.HostShell, error) { panic("it is no shell") }
		if err := s.Shell(t.Context(), take(t, s).ID(), never); !errors.Is(err, domain.ErrInvalidReply) {
			t.Errorf("Shell: %v", err)
		}
		wantError(t, <-killed, []error{domain.ErrNonFatalInternalError, domain.ErrInvalidReply})
		if err := s.Shell(t.Context(), "unknown", never); err != domain.ErrUnknownAction {
			t.Errorf("Shell: %v", err)
		}
	})
}

func TestTheTimeOfAShell(t *testing.T) {
	const timeout = time.Minute
	for name, test := range map[string]struct {
		exec    bool
		guest   func(fake *hostShell, session ports.ShellSession)
		took    time.Duration
		reason  domain.Reason
		aborted bool // by the caller
	}{
		"a guest of version 1":          {took: timeout, reason: domain.ReasonTimeout},
		"a guest that can, and doesn't": {exec: true, took: timeout + 10*time.Second, reason: domain.ReasonTimeout},
		"one that ends before":          {guest: func(f *hostShell, _ ports.ShellSession) { f.exits(true, 0) }, reason: domain.ReasonExited},
		"one that was aborted before":   {guest: func(_ *hostShell, s ports.ShellSession) { s.Abort() }, aborted: true},
		"a guest that ends it and tells": {exec: true, guest: func(f *hostShell, _ ports.ShellSession) {
			time.Sleep(timeout)
			f.exit <- domain.Result{Report: report(137, domain.ReasonTimeout)}
		}, took: timeout, reason: domain.ReasonTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, nil)
				if test.exec {
					if _, err := s.Hello(t.Context(), domain.Hello{BootID: "1", Features: domain.Features{domain.FeatureExec}}); err != nil {
						t.Fatal(err)
					}
				}
				start := time.Now()
				fake, session, served := openOne(t, s, domain.ShellSpec{Timeout: timeout})
				if test.guest != nil {
					test.guest(fake, session)
				}
				result, err := session.Result(t.Context())
				success, waitErr := session.Wait()
				if took := time.Since(start); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				<-served
				if test.aborted {
					if err != domain.ErrShellAborted || waitErr != domain.ErrShellAborted || session.Abort() != domain.ErrShellAborted {
						t.Errorf("%v, %v", err, waitErr)
					}
					return
				}
				if err != nil || waitErr != nil || result.Check() != nil || result.Report.Reason != test.reason || success != result.Success {
					t.Errorf("%+v, %v; %v, %v", result, err, success, waitErr)
				}
				if err := session.Abort(); err != domain.ErrShellTerminated {
					t.Errorf("Abort: %v", err)
				}
				time.Sleep(time.Hour) // nothing comes of its time-out any more
			})
		})
	}
}

func TestTheLimitOnShells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *host.Config) { c.Limits.Shells = 2 })
		first, _, served := openOne(t, s, domain.ShellSpec{})
		second, _, _ := openOne(t, s, domain.ShellSpec{})
		_, err := s.OpenShell(t.Context(), domain.ShellSpec{})
		wantError(t, err, []error{domain.ErrNonFatalInternalError}, "2 shells at once", "limit Shells")
		if limit, ok := errors.AsType[*domain.LimitError](err); !ok || limit.Limit != "Shells" || limit.Max != 2 {
			t.Errorf("%v", err)
		}
		first.exits(true, 0)
		<-served
		third, _, _ := openOne(t, s, domain.ShellSpec{})
		second.exits(true, 0)
		third.exits(true, 0)
	})
}

// Whatever a shell takes of the guest's memory comes back with its end.
func TestTheMemoryOfShells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 64 << 10
		s := newService(t, func(c *host.Config) { c.Limits.ShellBytes = 16 * window })
		first, _, firstServed := openOne(t, s, domain.ShellSpec{}) // two outputs: 14 windows are left
		if got := first.terms.Memory.Take(3 * window); got != 3*window {
			t.Errorf("the first output takes %d", got)
		}
		if got, want := first.terms.Memory.Take(3*window), int64(11*window/4); got != want {
			t.Errorf("the second takes %d, a quarter of what is left is %d", got, want)
		}
		second, _, secondServed := openOne(t, s, domain.ShellSpec{TTY: true}) // one output
		left := int64(16*window - 5*window - 11*window/4 - window)
		if got := second.terms.Memory.Take(100 * window); got != left/4 {
			t.Errorf("the second shell takes %d of %d", got, left)
		}
		second.terms.Memory.Give(left / 4)
		second.terms.Memory.Give(100 * window) // more than it has is nobody's
		if got := second.terms.Memory.Take(100 * window); got > left/2 {
			t.Errorf("after giving what it never took it takes %d of %d", got, left)
		}
		first.exits(true, 0)
		second.exits(true, 0)
		<-firstServed
		<-secondServed
		if got := first.terms.Memory.Take(1); got != 0 {
			t.Errorf("a shell that has ended takes %d", got)
		}
		held := int64(3*window + 11*window/4) // by the first, which nobody has read
		third, _, _ := openOne(t, s, domain.ShellSpec{TTY: true})
		if got, want := third.terms.Memory.Take(16*window), (15*window-held)/4; got > want {
			t.Errorf("beside what is unread a shell takes %d, want %d at most", got, want)
		} else {
			third.terms.Memory.Give(got)
		}
		first.terms.Memory.Give(held)
		second.terms.Memory.Give(16 * window)
		if got := third.terms.Memory.Take(16 * window); got != 15*window/4 {
			t.Errorf("then one alone takes %d, want %d", got, 15*window/4)
		}
		third.exits(true, 0)
	})
}

func TestAbortShells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		first, one, firstServed := openOne(t, s, domain.ShellSpec{})
		_, two, secondServed := openOne(t, s, domain.ShellSpec{})
		first.dying = 5 * time.Second
		start := time.Now()
		for range 2 {
			s.AbortShells()
		}
		for _, session := range []ports.ShellSession{one, two} {
			if _, err := session.Wait(); err != domain.ErrShellAborted {
				t.Errorf("Wait: %v", err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %s", took)
		}
		<-secondServed
		<-firstServed
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("the guest had %s for it", took)
		}
		if _, err := s.OpenShell(t.Context(), domain.ShellSpec{}); !errors.Is(err, domain.ErrSandboxTerminated) {
			t.Errorf("OpenShell: %v", err)
		}
	})
}

// Close waits for shells as it does for requests, and leaves none.
func TestCloseEndsShells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		fake, session, served := openOne(t, s, domain.ShellSpec{})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if !fake.gone() {
			t.Error("Close has returned, and the shell goes on")
		}
		if _, err := session.Wait(); !errors.Is(err, domain.ErrSandboxTerminated) {
			t.Errorf("Wait: %v", err)
		}
		<-served
		if _, err := s.OpenShell(t.Context(), domain.ShellSpec{}); !errors.Is(err, domain.ErrSandboxTerminated) {
			t.Errorf("OpenShell: %v", err)
		}
	})
}
