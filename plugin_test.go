package metaservice_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
)

// counting is a machine that counts its guests, and refuses to boot while refuse is set.
type counting struct {
	metaservice.Machine
	refuse error
	alive  atomic.Int64
	booted atomic.Int64
}

func (m *counting) Boot(ctx context.Context, options metaservice.BootOptions) (metaservice.Guest, error) {
	if m.refuse != nil {
		return nil, m.refuse
	}
	guest, err := m.Machine.Boot(ctx, options)
	if err != nil {
		return nil, err
	}
	m.alive.Add(1)
	m.booted.Add(1)
	return &counted{Guest: guest, release: sync.OnceFunc(func() { m.alive.Add(-1) })}, nil
}

type counted struct {
	metaservice.Guest
	release func()
}

func (g *counted) Stop(ctx context.Context) error {
	err := g.Guest.Stop(ctx)
	g.release()
	return err
}

func scripted(script metaservicetest.Script) *counting {
	return &counting{Machine: metaservicetest.NewMachine(script)}
}

// running is a guest whose task goes on until it is killed.
var running = metaservicetest.Run(func(ctx context.Context, _ metaservicetest.Task) int {
	<-ctx.Done()
	return 1
})

// silence is a guest that does nothing at all.
func silence(ctx context.Context, _ *metaservicetest.Guest) error { return nil }

func build(t *testing.T, engine metaservice.Engine, payload metaservice.Payload) metaservice.SandboxBuilder {
	t.Helper()
	if payload.Command == nil {
		payload.Command = []string{"true"}
	}
	text, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: text})
	if err != nil {
		t.Fatal(err)
	}
	return builder
}

func start(t *testing.T, engine metaservice.Engine, payload metaservice.Payload) metaservice.Sandbox {
	t.Helper()
	sandbox, err := build(t, engine, payload).StartSandbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sandbox
}

func result(t *testing.T, sandbox metaservice.Sandbox) metaservice.ResultSet {
	t.Helper()
	result, err := sandbox.WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func check(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// nothingLeft disposes of an engine, and looks whether all its guests are gone.
func nothingLeft(t *testing.T, engine metaservice.Engine, machine *counting) {
	t.Helper()
	check(t, "dispose", engine.Dispose(context.Background()), nil)
	if alive := machine.alive.Load(); alive != 0 {
		t.Errorf("%d guests of %d are left", alive, machine.booted.Load())
	}
}

func TestPlacesAreKeptAndGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := scripted(running)
		engine := newEngine(t, machine, metaservice.Config{MaxConcurrency: 1})
		full := func(after string) {
			t.Helper()
			_, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{"command":["true"]}`)})
			check(t, after, err, metaservice.ErrMaxConcurrencyExceeded)
		}
		builder := build(t, engine, metaservice.Payload{})
		full("with a builder")
		if _, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{}`)}); err == nil || errors.Is(err, metaservice.ErrMaxConcurrencyExceeded) {
			t.Errorf("a malformed payload is malformed however many there are: %v", err)
		}
		check(t, "discard", builder.Discard(), nil)
		check(t, "a second discard", builder.Discard(), metaservice.ErrSandboxBuilderDiscarded)

		machine.refuse = errors.New("no such kernel")
		_, err := build(t, engine, metaservice.Payload{}).StartSandbox(t.Context())
		check(t, "a boot that fails", err, machine.refuse)
		check(t, "a boot that fails", err, metaservice.ErrNonFatalInternalError)
		machine.refuse = nil

		ended, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("no time"))
		_, err = build(t, engine, metaservice.Payload{}).StartSandbox(ended)
		check(t, "a start whose ctx has ended", err, context.Cause(ended))

		sandbox := start(t, engine, metaservice.Payload{})
		full("while it runs")
		check(t, "kill", sandbox.Kill(), nil)
		killed := result(t, sandbox)
		full("before Dispose")
		check(t, "dispose", killed.Dispose(), nil)
		check(t, "dispose again", killed.Dispose(), nil)

		sandbox = start(t, engine, metaservice.Payload{})
		full("while it runs")
		check(t, "abort", sandbox.Abort(), nil)
		check(t, "abort again", sandbox.Abort(), metaservice.ErrSandboxAborted)

		sandbox = start(t, engine, metaservice.Payload{})
		check(t, "abort", sandbox.Abort(), nil)
		nothingLeft(t, engine, machine)
	})
}

func TestABuildersRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := scripted(metaservicetest.Run(func(_ context.Context, task metaservicetest.Task) int {
			fmt.Fprintf(task.Log, "A=%s B=%s", task.Env["A"], task.Env["B"])
			return 0
		}))
		engine := newEngine(t, machine, metaservice.Config{})
		var log strings.Builder
		builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{
			Payload: []byte(`{"command":["a"],"env":{"A":"1"},"artifacts":["x","y"]}`), Log: &log,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := builder.Artifacts(); !slices.Equal(got, []string{"x", "y"}) {
			t.Errorf("artifacts: %q", got)
		}
		check(t, "a variable", builder.SetEnvironmentVariable("B", "2"), nil)
		check(t, "the payload's", builder.SetEnvironmentVariable("A", "2"), metaservice.ErrNamingConflict)
		check(t, "again", builder.SetEnvironmentVariable("B", "2"), metaservice.ErrNamingConflict)
		if builder.SetEnvironmentVariable("A=B", "") == nil || builder.SetEnvironmentVariable("C", "\x00") == nil {
			t.Error("variables that can't be are taken")
		}
		check(t, "a proxy", builder.AttachProxy("p", http.NotFoundHandler()), nil)
		check(t, "again", builder.AttachProxy("p", http.NotFoundHandler()), metaservice.ErrNamingConflict)
		check(t, "a reserved one", builder.AttachProxy("engine", http.NotFoundHandler()), metaservice.ErrNamingConflict)
		check(t, "a bad one", builder.AttachProxy("a/b", http.NotFoundHandler()), metaservice.ErrInvalidProxyName)
		check(t, "no handler", builder.AttachProxy("q", nil), metaservice.ErrInvalidProxyName)
		sandbox, err := builder.StartSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = builder.StartSandbox(t.Context())
		check(t, "a second start", err, metaservice.ErrSandboxBuilderDiscarded)
		check(t, "a late variable", builder.SetEnvironmentVariable("C", ""), metaservice.ErrSandboxBuilderDiscarded)
		check(t, "a late proxy", builder.AttachProxy("r", http.NotFoundHandler()), metaservice.ErrSandboxBuilderDiscarded)
		check(t, "a late discard", builder.Discard(), metaservice.ErrSandboxBuilderDiscarded)
		set := result(t, sandbox)
		if !set.Success() || log.String() != "A=1 B=2" {
			t.Errorf("%+v, %q", set.Outcome(), log.String())
		}
		check(t, "kill", sandbox.Kill(), metaservice.ErrSandboxTerminated)
		check(t, "abort", sandbox.Abort(), metaservice.ErrSandboxTerminated)
		check(t, "dispose", set.Dispose(), nil)
		_, err = sandbox.WaitForResult(t.Context())
		check(t, "after Dispose", err, metaservice.ErrSandboxTerminated)
		_, err = set.ExtractFile(t.Context(), "x")
		check(t, "after Dispose", err, metaservice.ErrSandboxTerminated)
		check(t, "after Dispose", set.ExtractFolder(t.Context(), "x", nil), metaservice.ErrSandboxTerminated)
		nothingLeft(t, engine, machine)
	})
}

func TestAProxyIsThereUntilTheResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := make(chan string, 1)
		get := func(g *metaservicetest.Guest, path string) string {
			response, err := g.Get(path)
			if err != nil {
				return err.Error()
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			return fmt.Sprintf("%d %s", response.StatusCode, body)
		}
		machine := scripted(func(ctx context.Context, g *metaservicetest.Guest) error {
			if _, err := g.Execute(); err != nil {
				return err
			}
			log := g.OpenLog()
			for _, path := range []string{"/cache/a%2Fb?x=1", "/cache", "/other/"} {
				fmt.Fprintln(log, get(g, path))
			}
			if err := errors.Join(log.Close(), g.Succeed()); err != nil {
				return err
			}
			late <- get(g, "/cache/a")
			return nil
		})
		engine := newEngine(t, machine, metaservice.Config{})
		var log strings.Builder
		builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{"command":["a"]}`), Log: &log})
		if err != nil {
			t.Fatal(err)
		}
		check(t, "a proxy", builder.AttachProxy("cache", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s?%s", r.URL.EscapedPath(), r.URL.RawQuery)
		})), nil)
		sandbox, err := builder.StartSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		set := result(t, sandbox)
		lines := strings.Split(log.String(), "\n")
		if len(lines) != 4 || lines[0] != "200 /a%2Fb?x=1" {
			t.Fatalf("%q", lines)
		}
		for i, line := range append(lines[1:3], <-late) {
			if !strings.HasPrefix(line, "404 {") || !strings.Contains(line, "NoSuchEndPoint") {
				t.Errorf("%d: %s", i, line)
			}
		}
		check(t, "dispose", set.Dispose(), nil)
	})
}

// A task that is given up has no result, and its guest may live on: its proxies are gone all the same.
func TestAProxyIsGoneWithATaskThatIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		statuses, look := make(chan int), make(chan struct{})
		machine := scripted(func(ctx context.Context, g *metaservicetest.Guest) error {
			if _, err := g.Execute(); err != nil {
				return err
			}
			for range look {
				response, err := g.Get("/p/")
				if err != nil {
					return err
				}
				response.Body.Close()
				statuses <- response.StatusCode
			}
			return nil
		})
		engine := newEngine(t, machine, metaservice.Config{})
		builder := build(t, engine, metaservice.Payload{})
		check(t, "a proxy", builder.AttachProxy("p", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") })), nil)
		sandbox, err := builder.StartSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		look <- struct{}{}
		before := <-statuses
		check(t, "kill", sandbox.Kill(), nil) // which the guest never hears of
		set := result(t, sandbox)
		look <- struct{}{}
		if after := <-statuses; before != http.StatusOK || after != http.StatusNotFound || set.Outcome().Status != metaservice.StatusKilled {
			t.Errorf("%d before, %d after, %s", before, after, set.Outcome().Status)
		}
		close(look)
		check(t, "dispose", set.Dispose(), nil)
	})
}

// Which error, within which time, and nothing left: for a machine that doesn't do what it should.
func TestMachinesThatFail(t *testing.T) {
	for name, test := range map[string]struct {
		script  metaservicetest.Script
		payload metaservice.Payload
		status  metaservice.Status
		took    time.Duration
		says    string
	}{
		"dies at once": {
			script: func(context.Context, *metaservicetest.Guest) error { return errors.New("kernel panic") },
			status: metaservice.StatusMachineDied, says: "kernel panic",
		},
		"dies midway": {
			script: func(_ context.Context, g *metaservicetest.Guest) error {
				_, err := g.Execute()
				time.Sleep(7 * time.Second)
				return errors.Join(err, errors.New("out of memory"))
			},
			status: metaservice.StatusMachineDied, took: 7 * time.Second, says: "out of memory",
		},
		"never calls": {
			script: silence, status: metaservice.StatusMachineDied, took: 90 * time.Second, says: "did not call its host within 1m30s",
		},
		"falls silent": {
			script: func(_ context.Context, g *metaservicetest.Guest) error {
				_, err := g.Execute()
				_, pollErr := g.Poll()
				return errors.Join(err, pollErr)
			},
			status: metaservice.StatusGuestLost, took: 75 * time.Second, says: "guest lost",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				machine := scripted(test.script)
				engine := newEngine(t, machine, metaservice.Config{BootTimeout: metaservice.Duration(90 * time.Second), MaxConcurrency: 1})
				begun := time.Now()
				sandbox := start(t, engine, test.payload)
				set, err := sandbox.WaitForResult(t.Context())
				outcome, ok := errors.AsType[*metaservice.OutcomeError](err)
				if set != nil || !ok || outcome.Outcome.Status != test.status || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v, %v", set, err)
				}
				check(t, "its class", err, metaservice.ErrNonFatalInternalError)
				if took := time.Since(begun).Truncate(time.Second); took != test.took {
					t.Errorf("it took %s, not %s", took, test.took)
				}
				if machine.alive.Load() != 0 {
					t.Error("the guest is there after the error")
				}
				check(t, "abort", sandbox.Abort(), metaservice.ErrSandboxTerminated)
				check(t, "the place", build(t, engine, metaservice.Payload{}).Discard(), nil)
				nothingLeft(t, engine, machine)
			})
		})
	}
}

// The options that only the boot can judge are the payload's mistakes too.
func TestABootRefusesOptions(t *testing.T) {
	machine := scripted(silence)
	machine.refuse = &metaservice.MalformedPayloadError{Mistakes: []metaservice.Mistake{{Path: "image", Found: "no image", Right: "one"}}}
	engine := newEngine(t, machine, metaservice.Config{})
	_, err := build(t, engine, metaservice.Payload{}).StartSandbox(t.Context())
	malformed, ok := errors.AsType[*metaservice.MalformedPayloadError](err)
	if !ok || malformed.Mistakes[0].Path != "machine.image" || errors.Is(err, metaservice.ErrNonFatalInternalError) {
		t.Error(err)
	}
}

// A guest that takes an action and sits on it holds nobody up but who asked for it.
func TestNothingWaitsForAnActionThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken := make(chan struct{})
		machine := scripted(func(ctx context.Context, g *metaservicetest.Guest) error {
			if _, err := g.Execute(); err != nil {
				return err
			}
			if _, err := g.Poll(); err != nil { // the kill, which it never answers
				return err
			}
			close(taken)
			return nil
		})
		engine := newEngine(t, machine, metaservice.Config{})
		sandbox := start(t, engine, metaservice.Payload{})
		check(t, "kill", sandbox.Kill(), nil)
		<-taken
		begun := time.Now()
		check(t, "kill again", sandbox.Kill(), nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := sandbox.NewShell(ctx, nil, false); err == nil {
			t.Error("a shell without a guest to have it in")
		}
		_, err := sandbox.WaitForResult(ctx)
		check(t, "a wait that was given up", err, context.Canceled)
		check(t, "abort", sandbox.Abort(), nil)
		if took := time.Since(begun); took != 0 {
			t.Errorf("they took %s", took)
		}
		_, err = sandbox.WaitForResult(t.Context())
		check(t, "after Abort", err, metaservice.ErrSandboxAborted)
		_, err = sandbox.NewShell(t.Context(), nil, false)
		check(t, "a shell after Abort", err, metaservice.ErrSandboxAborted)
		nothingLeft(t, engine, machine)
	})
}

// A guest that can't be reached any more has its files asked for in vain: at once, not after three tries.
func TestExtractingFromAGuestThatHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		die := make(chan struct{})
		machine := scripted(func(_ context.Context, g *metaservicetest.Guest) error {
			if _, err := g.Execute(); err != nil {
				return err
			}
			if err := g.Succeed(); err != nil {
				return err
			}
			<-die
			return errors.New("power off")
		})
		engine := newEngine(t, machine, metaservice.Config{})
		set := result(t, start(t, engine, metaservice.Payload{}))
		begun := time.Now()
		time.AfterFunc(time.Second, func() { close(die) })
		_, err := set.ExtractFile(t.Context(), "file")
		check(t, "amid it", err, metaservice.ErrNonFatalInternalError)
		err = set.ExtractFolder(t.Context(), "folder", nil)
		check(t, "after it", err, metaservice.ErrNonFatalInternalError)
		if took := time.Since(begun); took != time.Second || !strings.Contains(err.Error(), "machine has ended") {
			t.Errorf("%v, after %s", err, took)
		}
		check(t, "dispose", set.Dispose(), nil)
		nothingLeft(t, engine, machine)
	})
}

func TestDisposeOfAnEngineEndsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := scripted(running)
		engine := newEngine(t, machine, metaservice.Config{})
		idle := build(t, engine, metaservice.Payload{})
		var waits sync.WaitGroup
		for range 20 {
			sandbox := start(t, engine, metaservice.Payload{})
			waits.Go(func() {
				_, err := sandbox.WaitForResult(t.Context())
				check(t, "a wait", err, metaservice.ErrSandboxAborted)
			})
		}
		ended := start(t, engine, metaservice.Payload{})
		check(t, "kill", ended.Kill(), nil)
		set := result(t, ended)
		nothingLeft(t, engine, machine)
		waits.Wait()
		_, err := set.ExtractFile(t.Context(), "file")
		check(t, "a result set", err, metaservice.ErrSandboxTerminated)
		check(t, "its Dispose", set.Dispose(), nil)
		_, err = idle.StartSandbox(t.Context())
		check(t, "a builder", err, metaservice.ErrSandboxTerminated)
		_, err = engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{"command":["a"]}`)})
		check(t, "a new builder", err, metaservice.ErrSandboxTerminated)
		check(t, "dispose again", engine.Dispose(t.Context()), nil)
	})
}

// stubborn is a guest that ends when it is killed, and no sooner.
type stubborn struct{ metaservice.Machine }

func (m stubborn) Boot(ctx context.Context, options metaservice.BootOptions) (metaservice.Guest, error) {
	guest, err := m.Machine.Boot(ctx, options)
	return &stubbornGuest{guest}, err
}

type stubbornGuest struct{ metaservice.Guest }

func (g *stubbornGuest) Stop(ctx context.Context) error {
	<-ctx.Done()
	return g.Guest.Stop(context.Background())
}

// fx gives 15 s to stop, and an app may give less: guests that don't end by themselves are killed in time.
func TestDisposeEndsWithinItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := scripted(running)
		machine.Machine = stubborn{machine.Machine}
		engine := newEngine(t, machine, metaservice.Config{StopTimeout: metaservice.Duration(time.Hour)})
		for range 3 {
			start(t, engine, metaservice.Payload{})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		begun := time.Now()
		check(t, "dispose", engine.Dispose(ctx), nil)
		if took := time.Since(begun); took != 3*time.Second || machine.alive.Load() != 0 {
			t.Errorf("it took %s, and %d guests are left", took, machine.alive.Load())
		}
	})
}

func TestDisposeAmidAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &counting{Machine: slow{}}
		engine := newEngine(t, machine, metaservice.Config{MaxConcurrency: 1})
		builder := build(t, engine, metaservice.Payload{})
		time.AfterFunc(time.Second, func() { check(t, "dispose", engine.Dispose(context.Background()), nil) })
		_, err := builder.StartSandbox(t.Context())
		check(t, "the start", err, metaservice.ErrSandboxTerminated)
		synctest.Wait()
	})
}

// slow is a machine that boots until it is told not to.
type slow struct{ metaservice.Machine }

func (slow) Boot(ctx context.Context, _ metaservice.BootOptions) (metaservice.Guest, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func TestAFolderHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := scripted(metaservicetest.Run(func(_ context.Context, task metaservicetest.Task) int {
			for i := range 10 {
				task.Files.Set(fmt.Sprintf("/out/%d", i), strings.Repeat("x", 100))
			}
			return 0
		}))
		for most, want := range map[int64]bool{1000: true, 999: false} {
			engine := newEngine(t, machine, metaservice.Config{Limits: metaservice.ConfigLimits{FolderBytes: most}})
			set := result(t, start(t, engine, metaservice.Payload{}))
			var files atomic.Int64
			err := set.ExtractFolder(t.Context(), "/out", func(string, io.ReadSeeker) error { files.Add(1); return nil })
			limit, ok := errors.AsType[*metaservice.LimitError](err)
			if (err == nil) != want || ok == want || ok && limit.Limit != "FolderBytes" {
				t.Errorf("%d bytes: %d files, %v", most, files.Load(), err)
			}
			check(t, "dispose", set.Dispose(), nil)
			nothingLeft(t, engine, machine)
		}
	})
}

// registrations tells the runs of TestRegistering apart: the default registry outlives them.
var registrations atomic.Int64

func TestRegistering(t *testing.T) {
	registry, provider := new(metaservice.Engines), metaservice.NewProvider(nil)
	check(t, "register", metaservice.Register(registry, "b", provider), nil)
	check(t, "register", metaservice.Register(registry, "a", provider), nil)
	check(t, "a taken name", metaservice.Register(registry, "a", provider), metaservice.ErrNamingConflict)
	check(t, "an empty name", metaservice.Register(registry, "", provider), metaservice.ErrNamingConflict)
	if err := metaservice.Register(registry, "c", nil); err == nil || registry.Register("c", nil) == nil {
		t.Error("nothing is registered")
	}
	if names := registry.Names(); !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("the names are %q", names)
	}
	if found, ok := registry.Provider("a"); !ok || found != provider {
		t.Error("it isn't found")
	}
	if _, ok := registry.Provider("c"); ok {
		t.Error("what isn't there is found")
	}
	var all sync.WaitGroup
	var won atomic.Int64
	for range 50 {
		all.Go(func() {
			if registry.Register("d", provider) == nil {
				won.Add(1)
			}
			registry.Names()
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d have the same name", won.Load())
	}
	name := fmt.Sprint("registered ", registrations.Add(1))
	check(t, "the default registry", metaservice.Register(nil, name, provider), nil)
	if !slices.Contains(metaservice.DefaultRegistry.Names(), name) {
		t.Error("the default registry doesn't have it")
	}
}

// The engine keeps the contract.
func TestTheEnginesContract(t *testing.T) {
	metaservicetest.EngineSuite(t, metaservicetest.EngineSetup{
		New: func(t *testing.T, options metaservicetest.EngineOptions) metaservice.Engine {
			engine, err := metaservice.NewEngine(metaservice.Config{MaxConcurrency: options.MaxConcurrency}, &metaservice.Environment{
				Machine: metaservicetest.NewMachine(metaservicetest.Run(metaservicetest.Behave)),
			})
			if err != nil {
				t.Fatal(err)
			}
			return engine
		},
		Payload: func(task metaservicetest.EngineTask) []byte {
			text, err := json.Marshal(metaservice.Payload{
				Command: task.Command(), Env: task.SetEnv, Timeout: metaservice.Duration(task.Timeout), Artifacts: task.Artifacts,
			})
			if err != nil {
				t.Error(err)
			}
			return text
		},
		Shell:   metaservicetest.ShellBehaviour.Command,
		Fetches: true,
	})
}
