package metaservice

import (
	"errors"
	"log/slog"

	"go.uber.org/fx"
)

// Module provides an EngineProvider, to the value group "engine_providers" as well, and an Engine. It
// takes a Config (or *Config), *slog.Logger, TemporaryStorage and Machine from the graph where they are
// there, and the defaults where they are not. When the app stops, the engine refuses new sandboxes, ends
// those that it has and waits for them, within the hook's time.
var Module = fx.Module("metaservice", fx.Provide(provideFx, engineFx))

// takenFx is what the module takes from the graph.
type takenFx struct {
	fx.In

	Config      Config           `optional:"true"`
	ConfigThere *Config          `optional:"true"`
	Logger      *slog.Logger     `optional:"true"`
	Storage     TemporaryStorage `optional:"true"`
	Machine     Machine          `optional:"true"`
}

type providedFx struct {
	fx.Out

	Provider EngineProvider
	Grouped  EngineProvider `group:"engine_providers"`
}

func provideFx(taken takenFx) (providedFx, error) {
	config := taken.Config
	if taken.ConfigThere != nil {
		if config != (Config{}) {
			return providedFx{}, errors.New("metaservice: the graph has both a Config and a *Config: leave one out")
		}
		config = *taken.ConfigThere
	}
	provider := NewProvider(&Environment{
		TemporaryStorage: taken.Storage, Logger: taken.Logger, Machine: taken.Machine,
	}, WithDefaults(config))
	return providedFx{Provider: provider, Grouped: provider}, nil
}

func engineFx(life fx.Lifecycle, provider EngineProvider) (Engine, error) {
	engine, err := provider.NewEngine(nil)
	if err != nil {
		return nil, err
	}
	life.Append(fx.Hook{OnStop: engine.Dispose})
	return engine, nil
}
