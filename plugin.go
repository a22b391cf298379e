package metaservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/processmachine"
	"github.com/hexworker/metaservice/adapters/proxies"
	"github.com/hexworker/metaservice/adapters/uuids"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// The engine contract: what a worker drives, and what a machine is.
type (
	// EngineProvider makes engines.
	EngineProvider = ports.EngineProvider
	// Engine runs tasks in sandboxes.
	Engine = ports.Engine
	// Capabilities are what engines differ in.
	Capabilities = ports.Capabilities
	// SandboxOptions are what a sandbox is made of: the payload in JSON, and where its log goes.
	SandboxOptions = ports.SandboxOptions
	// SandboxBuilder prepares one sandbox.
	SandboxBuilder = ports.SandboxBuilder
	// Sandbox is a task on its way.
	Sandbox = ports.Sandbox
	// ResultSet is the end of a task whose guest is still there.
	ResultSet = ports.ResultSet
	// FileHandler gets the files of a folder.
	FileHandler = ports.FileHandler
	// Shell is a process in the guest with its streams here.
	Shell = ports.Shell
	// Registry is a worker's list of engines.
	Registry = ports.Registry
	// Machine boots guests.
	Machine = ports.Machine
	// MachineWithOptions is a Machine that a payload may ask for something.
	MachineWithOptions = ports.MachineWithOptions
	// MachineWithToken is a Machine that can hand a token over to its guest's tools alone.
	MachineWithToken = ports.MachineWithToken
	// BootOptions is what a guest is booted with.
	BootOptions = ports.BootOptions
	// Guest is a booted machine.
	Guest = ports.Guest
	// GuestWithWords is a Guest that can tell what it has said.
	GuestWithWords = ports.GuestWithWords
	// MalformedPayloadError is a payload that can't be run, with every mistake in it.
	MalformedPayloadError = ports.MalformedPayloadError
	// OutcomeError is a task that ended without a guest to ask for its files.
	OutcomeError = ports.OutcomeError
	// Status is how a task ended, in one word.
	Status = domain.Status
)

// The statuses of an Outcome.
const (
	StatusSuccess     = domain.StatusSuccess
	StatusFailed      = domain.StatusFailed
	StatusKilled      = domain.StatusKilled
	StatusAborted     = domain.StatusAborted
	StatusTimedOut    = domain.StatusTimedOut
	StatusGuestLost   = domain.StatusGuestLost
	StatusMachineDied = domain.StatusMachineDied
)

// ErrInvalidProxyName is a name that no proxy can have.
var ErrInvalidProxyName = domain.ErrInvalidProxyName

// IsolatedMachine is a Machine that can tell whether its guests reach their host's files, processes and
// network. One that can't tell counts as one that does not isolate.
type IsolatedMachine interface {
	Machine
	// Isolated is Capabilities.Isolated.
	Isolated() bool
}

// ProviderOption changes what NewProvider makes.
type ProviderOption func(*provider)

// WithDefaults sets what the engines' configs are where they say nothing.
func WithDefaults(config Config) ProviderOption {
	return func(p *provider) { p.defaults = config }
}

// NewProvider makes the provider of metaservice's engines: on Environment.Machine, else on the process
// machine. A nil Environment is the zero one. Nothing is checked, found or started before NewEngine.
func NewProvider(environment *Environment, options ...ProviderOption) EngineProvider {
	p := new(provider)
	if environment != nil {
		p.environment = *environment
	}
	for _, option := range options {
		option(p)
	}
	return p
}

// NewEngine makes an engine without JSON and without a provider. The error is an *InvalidConfigError,
// which names every mistake.
func NewEngine(config Config, environment *Environment) (Engine, error) {
	return NewProvider(environment, WithDefaults(config)).NewEngine(nil)
}

type provider struct {
	ports.EngineProviderBase
	environment Environment
	defaults    Config
}

// ConfigSchema implements EngineProvider.
func (p *provider) ConfigSchema() []byte {
	text, err := json.MarshalIndent(configSchema, "", "  ")
	if err != nil {
		panic(err) // it is our own
	}
	return text
}

// NewEngine implements EngineProvider.
func (p *provider) NewEngine(data []byte) (Engine, error) {
	config, mistakes := decodeConfig(data, p.defaults)
	mistakes = append(mistakes, config.check()...)
	logger := p.environment.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	storage, wrong := p.storage(config)
	mistakes = append(mistakes, wrong...)
	machine, wrong := p.machine(config, logger)
	mistakes = append(mistakes, wrong...)
	if len(mistakes) > 0 {
		return nil, &InvalidConfigError{Mistakes: mistakes}
	}
	return newEngine(config, machine, storage, logger)
}

func (p *provider) storage(config Config) (TemporaryStorage, []Mistake) {
	if p.environment.TemporaryStorage != nil {
		return p.environment.TemporaryStorage, nil
	}
	storage, err := NewTemporaryStorage(config.TemporaryFolder)
	if err != nil {
		return nil, []Mistake{{Path: "temporaryFolder", Found: "no use: " + err.Error(), Right: "a folder that can be written to"}}
	}
	return storage, nil
}

func (p *provider) machine(config Config, logger *slog.Logger) (Machine, []Mistake) {
	if p.environment.Machine != nil {
		if config.GuestTools != "" {
			return nil, []Mistake{{Path: "guestTools", Found: domain.Quote(config.GuestTools),
				Right: "left out: this engine has a machine of its own, which starts no guest-tools here"}}
		}
		return p.environment.Machine, nil
	}
	const right = "the path of the program guest-tools, which go build ./cmd/guest-tools makes"
	tools, err := processmachine.FindTools(config.GuestTools)
	if err != nil {
		return nil, []Mistake{{Path: "guestTools", Found: err.Error(), Right: right}}
	}
	machine, err := newProcessMachine(tools, config.TemporaryFolder, logger)
	if err != nil {
		return nil, []Mistake{{Path: "guestTools", Found: "no use: " + err.Error(), Right: right}}
	}
	return machine, nil
}

// engine is the contract's face of host.Engine: it speaks JSON.
type engine struct {
	ports.EngineBase
	inner        *host.Engine
	capabilities Capabilities
	schema       []byte
}

func newEngine(config Config, machine Machine, storage TemporaryStorage, logger *slog.Logger) (Engine, error) {
	schema, err := payloadSchemaFor(machine)
	if err != nil {
		return nil, err
	}
	boot := time.Duration(config.BootTimeout)
	if boot == 0 {
		boot = DefaultBootTimeout
	}
	stop := time.Duration(config.StopTimeout)
	if stop == 0 {
		stop = DefaultStopTimeout
	}
	inner, err := host.NewEngine(host.EngineConfig{
		Machine: machine,
		Handler: func(api ports.GuestAPI, attached map[string]http.Handler) http.Handler {
			return proxies.New(chiapi.New(api, logger), attached, api.Over())
		},
		Storage:        storage,
		IDs:            uuids.Random{},
		Logger:         logger,
		Limits:         config.Limits.limits(),
		Token:          config.Token,
		MaxConcurrency: config.MaxConcurrency,
		BootTimeout:    boot,
		StopTimeout:    stop,
	})
	if err != nil {
		return nil, err
	}
	isolated, ok := machine.(IsolatedMachine)
	return &engine{inner: inner, schema: schema, capabilities: Capabilities{
		MaxConcurrency: config.MaxConcurrency,
		Shells:         true,
		Proxies:        true,
		Isolated:       ok && isolated.Isolated(),
	}}, nil
}

// Capabilities implements Engine.
func (e *engine) Capabilities() Capabilities { return e.capabilities }

// PayloadSchema implements Engine.
func (e *engine) PayloadSchema() []byte { return slices.Clone(e.schema) }

// Dispose implements Engine.
func (e *engine) Dispose(ctx context.Context) error { return e.inner.Dispose(ctx) }

// NewSandboxBuilder implements Engine.
func (e *engine) NewSandboxBuilder(options SandboxOptions) (SandboxBuilder, error) {
	payload, err := decodePayload(options.Payload, e.inner.CheckMachine)
	if err != nil {
		return nil, err
	}
	builder, err := e.inner.Build(payload, options.Log)
	if err != nil {
		return nil, err
	}
	return builder, nil
}

// Engines is a Registry that can be looked into. The zero Engines is empty. Safe for concurrent use.
type Engines struct {
	mu        sync.Mutex // guards what follows
	providers map[string]EngineProvider
}

// DefaultRegistry is for programs that need no more than one.
var DefaultRegistry = new(Engines)

var errNoProvider = errors.New("there is no provider to register")

// Register implements Registry: ErrNamingConflict for a name that is taken or empty.
func (e *Engines) Register(name string, provider EngineProvider) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case provider == nil:
		return fmt.Errorf("%w as %s", errNoProvider, domain.Quote(name))
	case name == "":
		return fmt.Errorf("%w: an engine needs a name", ErrNamingConflict)
	case e.providers[name] != nil:
		return fmt.Errorf("%w: there is an engine %s already", ErrNamingConflict, domain.Quote(name))
	}
	if e.providers == nil {
		e.providers = make(map[string]EngineProvider)
	}
	e.providers[name] = provider
	return nil
}

// Provider is the provider that has this name.
func (e *Engines) Provider(name string) (EngineProvider, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	provider, ok := e.providers[name]
	return provider, ok
}

// Names are the names that are taken, in order.
func (e *Engines) Names() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.providers))
}

// Register adds a provider to a worker's registry, under a name of the worker's choice; nil is the
// DefaultRegistry.
func Register(registry Registry, name string, provider EngineProvider) error {
	if registry == nil {
		registry = DefaultRegistry
	}
	if provider == nil {
		return fmt.Errorf("%w as %s", errNoProvider, domain.Quote(name))
	}
	return registry.Register(name, provider)
}

var (
	_ EngineProvider = (*provider)(nil)
	_ Engine         = (*engine)(nil)
	_ Registry       = (*Engines)(nil)
)
