package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// EngineConfig is what an Engine needs. Machine, Handler, Storage and IDs must be given.
type EngineConfig struct {
	Machine ports.Machine
	// Handler puts a guest's service on the wire, beside the proxies, by their names.
	Handler func(api ports.GuestAPI, proxies map[string]ports.Handler) ports.Handler
	Storage ports.Storage // of artifacts
	IDs     ports.IDs
	Logger  *slog.Logger // nil is silence
	Limits  domain.Limits
	Token   domain.TokenMode // whether guests' tools must prove themselves; empty is domain.TokenAuto

	MaxConcurrency int           // sandboxes at once; 0 is any number
	BootTimeout    time.Duration // for a machine to start, and then for its guest's first request; 0 is none
	StopTimeout    time.Duration // for a guest to stop by itself; default 10 s
}

// Payload is one task, in Go's own types.
type Payload struct {
	Execute   domain.Execute
	Machine   []byte        // options of the machine, as JSON; nil is none
	Timeout   time.Duration // of the task, once its machine is booted; 0 is none
	Artifacts []string      // paths that the worker is to keep
}

const defaultStop = 10 * time.Second

// Engine runs tasks in sandboxes: the ports.Engine without its JSON.
type Engine struct {
	config  EngineConfig
	closing context.Context // ends with Dispose
	close   context.CancelFunc
	polite  context.Context // ends when there is no time left to ask guests to stop: they are killed
	hurry   context.CancelFunc
	running sync.WaitGroup // the builders that start, and the sandboxes that are not released

	mu        sync.Mutex // guards what follows
	disposed  bool
	places    int // taken, by builders and sandboxes
	sandboxes map[*Sandbox]struct{}
	left      []error // what could not be released, once disposed is set
}

// NewEngine checks the config, and starts nothing.
func NewEngine(config EngineConfig) (*Engine, error) {
	var errs []error
	if config.Machine == nil || config.Handler == nil || config.Storage == nil || config.IDs == nil {
		errs = append(errs, fmt.Errorf("%w: Machine, Handler, Storage and IDs must be given", ErrInvalidConfig))
	}
	if config.MaxConcurrency < 0 || config.BootTimeout < 0 || config.StopTimeout < 0 {
		errs = append(errs, fmt.Errorf("%w: MaxConcurrency is %d, BootTimeout %s, StopTimeout %s; none can be less than 0",
			ErrInvalidConfig, config.MaxConcurrency, config.BootTimeout, config.StopTimeout))
	}
	if _, err := config.Limits.WithDefaults(); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrInvalidConfig, err))
	}
	if err := config.Token.Check(); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrInvalidConfig, err))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if config.StopTimeout == 0 {
		config.StopTimeout = defaultStop
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{config: config, sandboxes: make(map[*Sandbox]struct{})}
	e.closing, e.close = context.WithCancel(context.Background())
	e.polite, e.hurry = context.WithCancel(context.Background())
	return e, nil
}

// Build begins a sandbox, and takes its place. Its errors are those of ports.Engine's
// NewSandboxBuilder.
func (e *Engine) Build(payload Payload, log ports.LogSink) (*Builder, error) {
	if err := payload.Execute.Check(); err != nil {
		return nil, err
	}
	if err := e.CheckMachine(payload.Machine); err != nil {
		return nil, err
	}
	if err := e.takePlace(); err != nil {
		return nil, err
	}
	payload.Execute.Env = maps.Clone(payload.Execute.Env)
	if payload.Execute.Env == nil {
		payload.Execute.Env = make(map[string]string)
	}
	return &Builder{engine: e, payload: payload, log: log, proxies: make(map[string]ports.Handler)}, nil
}

// CheckMachine has the machine look at its options. Its mistakes are told with their place in the
// payload.
func (e *Engine) CheckMachine(options []byte) error {
	check := ports.NoMachineOptions
	if machine, ok := e.config.Machine.(ports.MachineWithOptions); ok {
		check = machine.CheckOptions
	}
	err := check(options)
	if malformed, ok := errors.AsType[*ports.MalformedPayloadError](err); ok {
		return inPayload(malformed)
	}
	return err
}

// inPayload tells a machine's mistakes with their place in the payload.
func inPayload(malformed *ports.MalformedPayloadError) error {
	placed := slices.Clone(malformed.Mistakes)
	for i := range placed {
		path := "machine"
		if placed[i].Path != "" {
			path += "." + placed[i].Path
		}
		placed[i].Path = path
	}
	return &ports.MalformedPayloadError{Mistakes: placed}
}

func (e *Engine) takePlace() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.disposed {
		return fmt.Errorf("%w: the engine is disposed of", domain.ErrSandboxTerminated)
	}
	if most := e.config.MaxConcurrency; most > 0 && e.places >= most {
		return fmt.Errorf("%w: there are %d sandboxes, the most that there may be", domain.ErrMaxConcurrencyExceeded, most)
	}
	e.places++
	return nil
}

func (e *Engine) givePlaceBack() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.places--
}

// starting notes that a builder starts; false is an engine that is disposed of.
func (e *Engine) starting() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.disposed {
		e.running.Add(1)
	}
	return !e.disposed
}

// keep takes a sandbox in, until it is released, and has end called at the engine's end, which may be now: even then
// it is released after it was taken in.
func (e *Engine) keep(s *Sandbox, end func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sandboxes[s] = struct{}{}
	s.unwatch = context.AfterFunc(e.closing, end)
}

// released forgets a sandbox, and gives its place back.
func (e *Engine) released(s *Sandbox) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sandboxes, s)
	s.unwatch()
	e.places--
	if e.disposed && s.relErr != nil && len(e.left) < keepErrors {
		e.left = append(e.left, s.relErr)
	}
}

// Sandboxes is how many places are taken.
func (e *Engine) Sandboxes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.places
}

// Dispose implements ports.Engine.
func (e *Engine) Dispose(ctx context.Context) error {
	e.mu.Lock()
	e.disposed = true
	e.mu.Unlock()
	e.close() // ends what is starting; each sandbox that is running releases itself
	defer context.AfterFunc(ctx, e.hurry)()
	if deadline, ok := ctx.Deadline(); ok { // the guests that are killed have to be gone by then
		defer time.AfterFunc(time.Until(deadline)*3/4, e.hurry).Stop()
	}
	done := make(chan struct{})
	go func() { // ends with the last sandbox
		e.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		e.mu.Lock()
		defer e.mu.Unlock()
		return errors.Join(e.left...)
	case <-ctx.Done():
		e.hurry()
		return fmt.Errorf("sandboxes are still being released: %w", context.Cause(ctx))
	}
}

// Builder prepares one sandbox: a ports.SandboxBuilder.
type Builder struct {
	ports.SandboxBuilderBase
	engine *Engine
	log    ports.LogSink

	mu      sync.Mutex // guards what follows
	life    domain.Life
	payload Payload
	proxies map[string]ports.Handler
}

// Artifacts implements ports.SandboxBuilder.
func (b *Builder) Artifacts() []string { return slices.Clone(b.payload.Artifacts) }

// building runs f on a builder that was neither started nor discarded.
func (b *Builder) building(f func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life.Phase() != domain.PhaseBuilding {
		return domain.ErrSandboxBuilderDiscarded
	}
	return f()
}

// SetEnvironmentVariable implements ports.SandboxBuilder.
func (b *Builder) SetEnvironmentVariable(name, value string) error {
	return b.building(func() error {
		if err := (domain.Execute{Env: map[string]string{name: value}}).Check(); err != nil {
			return err
		}
		if _, taken := b.payload.Execute.Env[name]; taken {
			return fmt.Errorf("%w: the variable %s is set already", domain.ErrNamingConflict, domain.Quote(name))
		}
		b.payload.Execute.Env[name] = value
		return nil
	})
}

// AttachProxy implements ports.SandboxBuilder.
func (b *Builder) AttachProxy(name string, handler ports.Handler) error {
	return b.building(func() error {
		if err := domain.CheckProxyName(name); err != nil {
			return err
		}
		if handler == nil {
			return fmt.Errorf("%w: the proxy %q has no handler", domain.ErrInvalidProxyName, name)
		}
		if b.proxies[name] != nil {
			return fmt.Errorf("%w: there is a proxy %q already", domain.ErrNamingConflict, name)
		}
		b.proxies[name] = handler
		return nil
	})
}

// Discard implements ports.SandboxBuilder.
func (b *Builder) Discard() error {
	b.mu.Lock()
	err := b.life.Discard()
	b.mu.Unlock()
	if err == nil {
		b.engine.givePlaceBack()
	}
	return err
}

// StartSandbox implements ports.SandboxBuilder.
func (b *Builder) StartSandbox(ctx context.Context) (ports.Sandbox, error) {
	sandbox, err := b.Start(ctx)
	switch {
	case err == nil:
		return sandbox, nil
	case errors.Is(err, domain.ErrSandboxBuilderDiscarded), errors.Is(err, domain.ErrSandboxTerminated):
		return nil, err
	}
	if malformed, ok := errors.AsType[*ports.MalformedPayloadError](err); ok {
		return nil, inPayload(malformed) // what only the boot could judge is the payload's fault, too
	}
	return nil, fmt.Errorf("%w: %w", domain.ErrNonFatalInternalError, err)
}

// Start is StartSandbox, with more of a sandbox, and with errors that are not in classes.
func (b *Builder) Start(ctx context.Context) (*Sandbox, error) {
	b.mu.Lock()
	err := b.life.Start()
	life := b.life
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	e := b.engine
	if !e.starting() {
		e.givePlaceBack()
		return nil, fmt.Errorf("%w: the engine is disposed of", domain.ErrSandboxTerminated)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.closing, func() { cancel(domain.ErrSandboxTerminated) })()
	task, err := start(ctx, b.job(), life)
	if err != nil {
		e.givePlaceBack()
		e.running.Done()
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return nil, err
	}
	return newSandbox(e, task), nil
}

func (b *Builder) job() Job {
	c := b.engine.config
	return Job{
		Config: Config{
			Execute: b.payload.Execute, Log: b.log, Limits: c.Limits, IDs: c.IDs, Logger: c.Logger, Token: c.Token,
		},
		Machine:        c.Machine,
		MachineOptions: b.payload.Machine,
		Handler:        func(api ports.GuestAPI) ports.Handler { return c.Handler(api, b.proxies) },
		Timeout:        b.payload.Timeout,
		BootTimeout:    c.BootTimeout,
	}
}

var _ ports.SandboxBuilder = (*Builder)(nil)
