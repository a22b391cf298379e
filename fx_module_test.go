package metaservice_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
)

func provide[T any](value T) fx.Option { return fx.Provide(func() T { return value }) }

func TestTheGraphIsWhole(t *testing.T) {
	for name, given := range map[string]fx.Option{
		"nothing given": fx.Options(),
		"all given": fx.Options(provide(metaservice.Config{}), provide(slog.New(slog.DiscardHandler)),
			provide[metaservice.TemporaryStorage](nil), provide[metaservice.Machine](nowhere{})),
	} {
		t.Run(name, func(t *testing.T) {
			err := fx.ValidateApp(metaservice.Module, given, fx.Invoke(
				func(metaservice.Engine, metaservice.EngineProvider) {},
				fx.Annotate(func([]metaservice.EngineProvider) {}, fx.ParamTags(`group:"engine_providers"`)),
			))
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheGraphIsTaken(t *testing.T) {
	for name, config := range map[string]fx.Option{
		"a Config":  provide(metaservice.Config{MaxConcurrency: 3}),
		"a *Config": provide(&metaservice.Config{MaxConcurrency: 3}),
	} {
		t.Run(name, func(t *testing.T) {
			var engine metaservice.Engine
			var provider metaservice.EngineProvider
			var group []metaservice.EngineProvider
			var log bytes.Buffer
			machine := scripted(running)
			storage, err := metaservice.NewTemporaryStorage(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			app := fxtest.New(t, metaservice.Module, config, provide[metaservice.Machine](machine), provide(storage),
				provide(slog.New(slog.NewTextHandler(&log, nil))), fx.Populate(&engine, &provider),
				fx.Invoke(fx.Annotate(func(all []metaservice.EngineProvider) { group = all }, fx.ParamTags(`group:"engine_providers"`))))
			app.RequireStart()
			if got := engine.Capabilities().MaxConcurrency; got != 3 {
				t.Errorf("MaxConcurrency is %d", got)
			}
			if len(group) != 1 || group[0] != provider {
				t.Errorf("the group has %v", group)
			}
			sandbox := start(t, engine, metaservice.Payload{})
			check(t, "kill", sandbox.Kill(), nil)
			set := result(t, sandbox)
			check(t, "dispose", set.Dispose(), nil)
			app.RequireStop()
			if machine.booted.Load() != 1 || !strings.Contains(log.String(), "task resolved") {
				t.Errorf("%d guests, and the log says %q", machine.booted.Load(), log.String())
			}
		})
	}
}

// Tasks, builders and results that an app leaves behind are ended as it stops, within the time it has.
func TestAnAppStopsAmidItsTasks(t *testing.T) {
	var engine metaservice.Engine
	machine := scripted(running)
	app := fxtest.New(t, metaservice.Module, provide[metaservice.Machine](machine), fx.Populate(&engine))
	app.RequireStart()
	build(t, engine, metaservice.Payload{})
	ended := start(t, engine, metaservice.Payload{})
	check(t, "kill", ended.Kill(), nil)
	result(t, ended)
	waiting := make(chan error, 1)
	sandbox := start(t, engine, metaservice.Payload{})
	go func() {
		_, err := sandbox.WaitForResult(context.Background())
		waiting <- err
	}()
	app.RequireStop()
	check(t, "the task", <-waiting, metaservice.ErrSandboxAborted)
	if alive := machine.alive.Load(); alive != 0 {
		t.Errorf("%d guests are left", alive)
	}
	_, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{"command":["a"]}`)})
	check(t, "a task after the stop", err, metaservice.ErrSandboxTerminated)
}

// Guests that don't end by themselves are killed before the app's time is over, whatever StopTimeout says.
func TestAnAppStopsInTime(t *testing.T) {
	t.Parallel() // it waits: what fx starts can't live in a bubble
	var engine metaservice.Engine
	machine := scripted(running)
	machine.Machine = stubborn{machine.Machine}
	app := fx.New(metaservice.Module, provide[metaservice.Machine](machine), fx.Populate(&engine), fx.NopLogger,
		provide(metaservice.Config{StopTimeout: metaservice.Duration(time.Hour)}))
	check(t, "start", app.Start(t.Context()), nil)
	start(t, engine, metaservice.Payload{})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second) // a quarter of it is for the kill
	defer cancel()
	check(t, "stop", app.Stop(ctx), nil)
	if alive := machine.alive.Load(); alive != 0 {
		t.Errorf("%d guests are left", alive)
	}
}

func TestABadConfigFailsTheStart(t *testing.T) {
	app := fx.New(metaservice.Module, fx.NopLogger, fx.Invoke(func(metaservice.Engine) {}),
		provide[metaservice.Machine](metaservicetest.NewMachine(silence)),
		provide(metaservice.Config{MaxConcurrency: -1, BootTimeout: -1, Limits: metaservice.ConfigLimits{Tries: -1}}))
	err := app.Start(t.Context())
	invalid, ok := errors.AsType[*metaservice.InvalidConfigError](err)
	if !ok || len(invalid.Mistakes) != 3 {
		t.Fatal(err)
	}
	for _, says := range []string{"maxConcurrency is -1", `bootTimeout is "-1ns"`, "limits.tries is -1"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%q doesn't say %q", err, says)
		}
	}
	both := fx.New(metaservice.Module, fx.NopLogger, fx.Invoke(func(metaservice.Engine) {}),
		provide(metaservice.Config{MaxConcurrency: 1}), provide(&metaservice.Config{}))
	if err := both.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "both a Config and a *Config") {
		t.Error(err)
	}
}
