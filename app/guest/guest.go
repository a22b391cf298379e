// Package guest is what guest-tools do: ask the host what to run, run it, bring its output and its
// result to the host, and serve what the host asks for meanwhile and afterwards.
//
// The host may go away and come back at any time, and so may the way to it. What can be asked again is
// asked again for as long as the guest lives; the task runs on as if nothing had happened, until its
// output fills the buffer that waits for the host. A guest without a host is of use to nobody, but it
// isn't this program's business to end it.
//
// The order at the end of a task is fixed: its output to the last byte, the end of the log and the
// host's word that it has it, and only then the result. Whoever reads the log after the result would
// miss the rest of it otherwise.
package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// KillGrace is how long a task's processes have to end by themselves, once they are asked to.
	KillGrace = 5 * time.Second
	// goodbye is how long what the task has left to tell may take when the guest ends.
	goodbye = 2 * time.Second
)

// Config is all that a Guest needs.
type Config struct {
	Host      ports.Host
	Files     ports.Files
	Processes ports.Processes
	Shells    ports.Shells // nil: there are none
	Logger    *slog.Logger // nil is nobody

	Version string // of these tools
	BootID  string // tells this boot of the guest from the next

	Entrypoint []string          // put before each task's command
	Environ    []string          // NAME=VALUE: the environment to begin with
	Env        map[string]string // added to it; the task's own is added last
	User       string            // who runs the task; empty is the current user
	Dir        string            // where it starts
	Terminal   bool              // whether it gets a terminal
	Shell      []string          // what a shell is where the host doesn't say; empty is the platform's own
}

// ErrInvalidConfig is a Config that can't be.
var ErrInvalidConfig = errors.New("invalid guest configuration")

// features is what this version can do beyond version 1.
func features(shells bool) domain.Features {
	fs := domain.Features{domain.FeatureResult, domain.FeatureTar}
	if shells {
		fs = append(fs, domain.FeatureExec, domain.FeatureShell2)
	}
	return append(fs, domain.FeatureToken)
}

// Guest serves one host, and runs its task.
type Guest struct {
	config Config
	log    *slog.Logger
	link   *link
	task   task
	crew   *crew

	execute domain.Execute // what the host said; set before the first poll

	hurry     context.Context // ends when there is no time for orderly ends any more
	hurryOnce context.CancelFunc
}

// New checks the config and starts nothing.
func New(config Config) (*Guest, error) {
	if config.Host == nil || config.Files == nil || config.Processes == nil {
		return nil, fmt.Errorf("%w: host, files and processes must all be given", ErrInvalidConfig)
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	hello := domain.Hello{
		Version:  config.Version,
		BootID:   config.BootID,
		OS:       runtime.GOOS,
		Arch:     runtime.GOARCH,
		Features: features(config.Shells != nil),
	}
	if err := hello.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidConfig, err)
	}
	g := &Guest{config: config, log: config.Logger, link: newLink(config.Host, hello, config.Logger)}
	g.task.decided = make(chan struct{})
	g.hurry, g.hurryOnce = context.WithCancel(context.Background())
	return g, nil
}

// Hurry makes an end that is under way, or yet to come, one without grace: what runs is killed, what
// isn't delivered is dropped. Any number of times, from any goroutine.
func (g *Guest) Hurry() { g.hurryOnce() }

// Run asks for the task, runs it, and serves the host until ctx ends. Then it ends what is left of the
// task, and returns when nothing of it runs any more; the error tells what could not be ended. A task
// that is cut short so is not resolved: its host learns by the connection's end. After Hurry it doesn't
// wait for a command that is still being started, and says so. A host that refuses to serve this guest for
// want of the right token ends it too, with ErrNoAccess. Run is called once.
func (g *Guest) Run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	g.link.end = end
	execute, verdict := g.ask(ctx)
	if ctx.Err() != nil {
		return fate(ctx)
	}
	g.execute = execute
	// What the task has begun goes on for a moment after ctx: stop ends it.
	stop, stopNow := context.WithCancel(context.WithoutCancel(ctx))
	defer stopNow()

	g.crew = newCrew(func(action domain.Action) { g.act(ctx, action) })
	var polls sync.WaitGroup
	polls.Go(func() { g.servePolls(ctx) })
	taskEnded := make(chan struct{})
	go func() {
		defer close(taskEnded)
		switch {
		case verdict == nil:
			g.run(ctx, stop, execute)
		case errors.Is(verdict, domain.ErrInvalidExecute):
			g.refuse(stop, verdict)
		default:
			g.log.Info("the task has its result already, it is not run again")
		}
	}()

	<-ctx.Done()
	g.log.Info("ending")
	polls.Wait()
	g.crew.close()
	return errors.Join(fate(ctx), g.end(stopNow, taskEnded))
}

// fate is why a guest ends that nobody asked to end.
func fate(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrNoAccess) {
		return cause
	}
	return nil
}

// end ends the task's tree, gives what it said last a moment to be delivered, and joins the task.
func (g *Guest) end(stopNow context.CancelFunc, taskEnded <-chan struct{}) error {
	survivors, err := g.task.kill(g.hurry, KillGrace)
	if errors.Is(err, errStarting) {
		err = nil // close knows the end of that
	}
	g.tellSurvivors(survivors)
	if len(survivors) > 0 {
		err = errors.Join(err, fmt.Errorf("%d processes of the task could not be killed", len(survivors)))
	}
	patience := time.NewTimer(goodbye)
	defer patience.Stop()
	select {
	case <-taskEnded:
	case <-patience.C:
	case <-g.hurry.Done():
	}
	stopNow()
	closed := g.task.close(g.hurry)
	if !errors.Is(closed, errStarting) {
		<-taskEnded
	}
	return errors.Join(err, closed)
}

// ask asks the host what to run, until it says. The verdict is nil for a task to run,
// domain.ErrInvalidExecute for one that can't be, and else a refusal: it was run before.
func (g *Guest) ask(ctx context.Context) (execute domain.Execute, verdict error) {
	conflict := &domain.Error{Code: domain.CodeResourceConflict}
	var pause backoff
	for told := false; ; {
		err := g.link.call(ctx, func() (err error) {
			execute, err = g.config.Host.Execute(ctx)
			return err
		})
		refusal, refused := errors.AsType[*domain.Error](err)
		switch {
		case err == nil:
			g.log.Info("the host has a task", "task", execute)
			return execute, nil
		case errors.Is(err, domain.ErrInvalidExecute), errors.Is(err, conflict):
			return domain.Execute{}, err
		case refused && !told:
			told = true
			g.log.Warn("the host refuses to say what to run; it is asked again", "refusal", refusal)
		}
		if !pause.wait(ctx) {
			return domain.Execute{}, context.Cause(ctx)
		}
	}
}
