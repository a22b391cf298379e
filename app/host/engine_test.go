package host_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// newEngine makes an engine with room for one sandbox, whose guests do what the function does.
func newEngine(t *testing.T, guest func(ctx context.Context, api ports.GuestAPI) error) (*host.Engine, *machine) {
	t.Helper()
	m := &machine{guest: guest}
	engine, err := host.NewEngine(host.EngineConfig{
		Machine: m,
		Handler: func(api ports.GuestAPI, _ map[string]ports.Handler) ports.Handler {
			m.api = api
			return nil
		},
		Storage: &memory{}, IDs: &counter{}, MaxConcurrency: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Dispose(context.Background()); err != nil {
			t.Errorf("Dispose: %v", err)
		}
	})
	return engine, m
}

func startSandbox(t *testing.T, engine *host.Engine) ports.Sandbox {
	t.Helper()
	builder, err := engine.Build(host.Payload{Execute: domain.Execute{Command: []string{"true"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sandbox, err := builder.StartSandbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sandbox
}

func succeed(ctx context.Context, api ports.GuestAPI) error {
	err := api.Resolve(ctx, domain.Result{Success: true})
	<-ctx.Done()
	return err
}

// What is too late changes nothing: the result set is there, holds the place, and gives it back once.
func TestAnAbortThatIsTooLateLeavesTheResultSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, m := newEngine(t, succeed)
		sandbox := startSandbox(t, engine)
		result, err := sandbox.WaitForResult(t.Context())
		if err != nil || !result.Success() {
			t.Fatalf("%v, %v", result, err)
		}
		for range 2 {
			if err := sandbox.Abort(); err != domain.ErrSandboxTerminated {
				t.Errorf("Abort: %v", err)
			}
		}
		if engine.Sandboxes() != 1 || m.stopped != 0 {
			t.Errorf("%d places are taken, %d guests were stopped", engine.Sandboxes(), m.stopped)
		}
		for range 2 {
			if err := result.Dispose(); err != nil {
				t.Errorf("Dispose: %v", err)
			}
		}
		if engine.Sandboxes() != 0 || m.stopped != 1 {
			t.Errorf("%d places are taken, %d guests were stopped", engine.Sandboxes(), m.stopped)
		}
		if _, err := sandbox.WaitForResult(t.Context()); err != domain.ErrSandboxTerminated {
			t.Errorf("WaitForResult: %v", err)
		}
	})
}

func TestASecondAbortIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, m := newEngine(t, func(ctx context.Context, _ ports.GuestAPI) error { <-ctx.Done(); return nil })
		sandbox := startSandbox(t, engine)
		if err := sandbox.Abort(); err != nil {
			t.Errorf("Abort: %v", err)
		}
		for what, call := range map[string]func() error{
			"Abort":         sandbox.Abort,
			"Kill":          sandbox.Kill,
			"NewShell":      func() error { _, err := sandbox.NewShell(t.Context(), nil, false); return err },
			"WaitForResult": func() error { _, err := sandbox.WaitForResult(t.Context()); return err },
		} {
			if err := call(); err != domain.ErrSandboxAborted {
				t.Errorf("%s after an abort: %v", what, err)
			}
		}
		if engine.Sandboxes() != 0 || m.stopped != 1 {
			t.Errorf("%d places are taken, %d guests were stopped", engine.Sandboxes(), m.stopped)
		}
	})
}

// Every error of an extraction is in a class of the contract.
func TestAPathThatCantBeOneIsAnInternalError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, _ := newEngine(t, succeed)
		result, err := startSandbox(t, engine).WaitForResult(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"", "a\x00b", "\xff"} {
			_, err := result.ExtractFile(t.Context(), path)
			wantError(t, err, []error{domain.ErrNonFatalInternalError, domain.ErrInvalidAction})
			err = result.ExtractFolder(t.Context(), path, nil)
			wantError(t, err, []error{domain.ErrNonFatalInternalError, domain.ErrInvalidAction})
		}
	})
}

// stubborn is a machine whose guests can't be ended whole.
type stubborn struct{ *machine }

type stubbornGuest struct{ ports.Guest }

var errStays = errors.New("a folder can't be removed")

func (m stubborn) Boot(ctx context.Context, options ports.BootOptions) (ports.Guest, error) {
	guest, err := m.machine.Boot(ctx, options)
	return stubbornGuest{guest}, err
}

func (g stubbornGuest) Stop(ctx context.Context) error {
	return errors.Join(g.Guest.Stop(ctx), errStays)
}

func TestTheEnginesEndTellsWhatCouldNotBeReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{guest: func(ctx context.Context, _ ports.GuestAPI) error { <-ctx.Done(); return nil }}
		engine, err := host.NewEngine(host.EngineConfig{
			Machine: stubborn{m},
			Handler: func(api ports.GuestAPI, _ map[string]ports.Handler) ports.Handler { return nil },
			Storage: &memory{}, IDs: &counter{},
		})
		if err != nil {
			t.Fatal(err)
		}
		sandbox := startSandbox(t, engine)
		for range 2 {
			if err := engine.Dispose(t.Context()); !errors.Is(err, errStays) {
				t.Errorf("Dispose: %v", err)
			}
		}
		if _, err := sandbox.WaitForResult(t.Context()); err != domain.ErrSandboxAborted {
			t.Errorf("WaitForResult: %v", err)
		}
		if _, err := engine.Build(host.Payload{}, nil); !errors.Is(err, domain.ErrSandboxTerminated) {
			t.Errorf("Build: %v", err)
		}
	})
}

// An engine's end doesn't wait for guests longer than its context.
func TestTheEnginesEndKeepsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		engine, _ := newEngine(t, func(context.Context, ports.GuestAPI) error { <-release; return nil })
		startSandbox(t, engine)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := engine.Dispose(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Dispose: %v", err)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("it took %s", took)
		}
		close(release)
	})
}

// late is a machine that takes no notice of its start being given up, and whose guest is dead by then.
type late struct {
	*machine
	booting chan struct{}
}

func (m late) Boot(ctx context.Context, _ ports.BootOptions) (ports.Guest, error) {
	close(m.booting)
	<-ctx.Done()
	done := make(chan struct{})
	close(done)
	return &guest{m: m.machine, cancel: func() {}, done: done}, nil
}

// A sandbox that started just as its engine ended could be released while it was still being made: that panicked, on a
// goroutine that nobody recovers.
func TestTheEnginesEndMeetsASandboxThatIsBeingMade(t *testing.T) {
	for range 3000 { // it is a matter of chance
		m := late{&machine{}, make(chan struct{})}
		engine, err := host.NewEngine(host.EngineConfig{
			Machine: m,
			Handler: func(ports.GuestAPI, map[string]ports.Handler) ports.Handler { return nil },
			Storage: &memory{}, IDs: &counter{},
		})
		if err != nil {
			t.Fatal(err)
		}
		builder, err := engine.Build(host.Payload{Execute: domain.Execute{Command: []string{"true"}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var starting sync.WaitGroup
		starting.Go(func() {
			if _, err := builder.StartSandbox(context.Background()); err != nil && !errors.Is(err, domain.ErrSandboxTerminated) {
				t.Error(err)
			}
		})
		<-m.booting
		if err := engine.Dispose(context.Background()); err != nil {
			t.Error(err)
		}
		starting.Wait()
		if got := engine.Sandboxes(); got != 0 {
			t.Fatalf("%d places are taken", got)
		}
	}
}
