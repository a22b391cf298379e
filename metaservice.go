package metaservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/tempfiles"
	"github.com/hexworker/metaservice/adapters/uuids"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// PollTimeout is the longest that a poll of the guest hangs.
const PollTimeout = 30 * time.Second

// The codes of refusals in version 1 of the protocol, as in Error.Code.
const (
	ErrorCodeMethodNotAllowed = domain.CodeMethodNotAllowed
	ErrorCodeNoSuchEndPoint   = domain.CodeNoSuchEndPoint
	ErrorCodeInternalError    = domain.CodeInternalError
	ErrorCodeResourceConflict = domain.CodeResourceConflict
	ErrorCodeUnknownActionID  = domain.CodeUnknownActionID
	ErrorCodeInvalidPayload   = domain.CodeInvalidPayload
)

// What goes over the wire, with the JSON names of the protocol.
type (
	// Action is the answer to a poll.
	Action = wire.Action
	// Error is the answer to a request that is refused.
	Error = domain.Error
	// Execute is the answer to execute: what the guest is to run. It never shows its values in a log.
	Execute = domain.Execute
	// Files is a guest's answer to a list-folder.
	Files = wire.Files
)

// What the context forms return.
type (
	// Limits bounds what a guest can make its host do; zero fields mean their defaults.
	Limits = domain.Limits
	// LimitError is a limit that was hit: it names the field of Limits to raise.
	LimitError = domain.LimitError
	// Outcome is how a task ended, with exit report and the log's account.
	Outcome = domain.Outcome
	// Report is how the task's process ended, where the guest could tell.
	Report = domain.Report
	// Listing is a folder's list.
	Listing = domain.Listing
	// ShellSpec is all that a shell can be told.
	ShellSpec = domain.ShellSpec
	// ShellSession is a Shell that tells how it ended, with a report where the guest could tell.
	ShellSession = ports.ShellSession
	// Result is a guest's word on how a process ended.
	Result = domain.Result
)

// TokenMode says whether a guest's requests must prove that they are its tools'.
type TokenMode = domain.TokenMode

// The modes. docs/protocol.md tells what they hold off, and what not.
const (
	// TokenAuto, the default, demands a token where the machine hands one over and the guest's tools know of it.
	TokenAuto = domain.TokenAuto
	// TokenRequired demands one of every guest. Where the machine can't hand it over, the first who asks has it.
	TokenRequired = domain.TokenRequired
	// TokenOff demands none.
	TokenOff = domain.TokenOff
)

// Errors of the service and of the engine. The old forms return ErrResourceNotFound and
// those of shells bare, for users who compare with ==; everything else is for errors.Is.
var (
	// ErrResourceNotFound is a file or folder that isn't there.
	ErrResourceNotFound = domain.ErrResourceNotFound
	// ErrNonFatalInternalError is a failure that says nothing about the resource; it wraps its cause.
	ErrNonFatalInternalError = domain.ErrNonFatalInternalError
	// ErrShellTerminated is a shell that has already ended.
	ErrShellTerminated = domain.ErrShellTerminated
	// ErrShellAborted is a shell that was aborted.
	ErrShellAborted = domain.ErrShellAborted
	// ErrSandboxTerminated is a sandbox, or a service, that has ended.
	ErrSandboxTerminated = domain.ErrSandboxTerminated
	// ErrSandboxAborted is a sandbox that was aborted.
	ErrSandboxAborted = domain.ErrSandboxAborted
	// ErrSandboxBuilderDiscarded is a builder that was discarded.
	ErrSandboxBuilderDiscarded = domain.ErrSandboxBuilderDiscarded
	// ErrFeatureNotSupported is something that this version, or the guest, can't do.
	ErrFeatureNotSupported = domain.ErrFeatureNotSupported
	// ErrNamingConflict is a name that is taken, or reserved.
	ErrNamingConflict = domain.ErrNamingConflict
	// ErrHandlerInterrupt is a walk that its handler stopped.
	ErrHandlerInterrupt = domain.ErrHandlerInterrupt
	// ErrMaxConcurrencyExceeded is a sandbox too many.
	ErrMaxConcurrencyExceeded = domain.ErrMaxConcurrencyExceeded
	// ErrLogIncomplete is a task part of whose log never came.
	ErrLogIncomplete = domain.ErrLogIncomplete
	// ErrGuestLost is a guest that has polled before, and fell silent.
	ErrGuestLost = domain.ErrGuestLost
)

// TemporaryStorage is where artifacts are kept until they are closed.
type TemporaryStorage = ports.Storage

// NewTemporaryStorage keeps artifacts in files below a folder, which must be there; empty means the
// system's folder for temporary files. A file is gone once it is closed, or its host is.
func NewTemporaryStorage(folder string) (TemporaryStorage, error) {
	storage, err := tempfiles.New(folder)
	if err != nil {
		return nil, err
	}
	return storage, nil
}

// Environment is what a MetaService, or an engine, finds around it. The zero Environment works.
type Environment struct {
	TemporaryStorage TemporaryStorage // nil: files in the system's folder for temporary files
	Logger           *slog.Logger     // nil: silence
	Machine          Machine          // of an engine; nil: the process machine, which isolates nothing
	// Hosts are names with a dot by which guests may call their host where Serve serves them, such as
	// host.example: others might be somebody's who made them lead here. Addresses, and names without a dot,
	// need none. ServeHTTP answers to any.
	Hosts []string
}

// Option changes what New makes.
type Option func(*host.Config)

// WithLimits sets limits other than the default.
func WithLimits(limits Limits) Option {
	return func(c *host.Config) { c.Limits = limits }
}

// WithToken has the guest's tools prove themselves. A MetaService has no machine that could hand the token
// over: TokenAuto demands none, and TokenRequired gives it to the first who asks.
func WithToken(mode TokenMode) Option {
	return func(c *host.Config) { c.Token = mode }
}

// WithOutcome has f told the task's outcome, with all that is known of it, once, on a goroutine of
// its own.
func WithOutcome(f func(Outcome)) Option {
	return func(c *host.Config) { c.Resolved = f }
}

// MetaService is what one guest talks to, and what asks that guest for things: an http.Handler for
// the guest's requests, and methods for the host's. Safe for concurrent use. Close it when the guest
// is gone.
type MetaService struct {
	service *host.Service
	api     http.Handler
	log     *slog.Logger
	storage func() (TemporaryStorage, error)
	hosts   []string
}

// New makes a MetaService whose guest is to run command with env. The task's log is written to
// logDrain as it arrives; nil drops it. resultCallback is told once, on a goroutine of its own, whether
// the task succeeded with all of its log; nil tells nobody. Nothing is started.
//
// New panics where the command, the environment or the limits can't be: a NUL byte in an argument, a
// negative limit. NewWithError returns that instead.
func New(command []string, env map[string]string, logDrain io.Writer, resultCallback func(bool), environment *Environment, options ...Option) *MetaService {
	service, err := NewWithError(command, env, logDrain, resultCallback, environment, options...)
	if err != nil {
		panic("metaservice: " + err.Error())
	}
	return service
}

// NewWithError is New, and names every mistake in what it was given.
func NewWithError(command []string, env map[string]string, logDrain io.Writer, resultCallback func(bool), environment *Environment, options ...Option) (*MetaService, error) {
	if environment == nil {
		environment = &Environment{}
	}
	logger := environment.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	config := host.Config{
		Execute: Execute{Env: env, Command: command},
		Log:     logDrain,
		IDs:     uuids.Random{},
		Logger:  logger,
	}
	for _, option := range options {
		option(&config)
	}
	if full := config.Resolved; resultCallback != nil {
		config.Resolved = func(outcome Outcome) {
			if full != nil {
				full(outcome)
			}
			resultCallback(outcome.Succeeded())
		}
	}
	service, err := host.New(config)
	if err != nil {
		return nil, err
	}
	given := environment.TemporaryStorage
	return &MetaService{
		service: service,
		api:     chiapi.New(service, logger),
		log:     logger,
		hosts:   slices.Clone(environment.Hosts),
		storage: sync.OnceValues(func() (TemporaryStorage, error) {
			if given != nil {
				return given, nil
			}
			return NewTemporaryStorage("")
		}),
	}, nil
}

// ServeHTTP answers the guest. It runs in anybody's server; Serve is the one that is hardened.
func (m *MetaService) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.api.ServeHTTP(w, r) }

// Serve answers the guest on a listener until ctx ends, with limits on headers, on the time that they
// take, on connections and on the names that a guest may call it by (Environment.Hosts). It closes the listener and every connection, and returns when no
// request is being handled any more: nil if ctx ended, else why the listener failed.
func (m *MetaService) Serve(ctx context.Context, listener net.Listener) error {
	return httpserver.Config{Hosts: m.hosts}.Serve(ctx, listener, m, m.log)
}

// GetArtifact is Artifact without a context: it gives up after the tries and times of Limits. A file
// that isn't there is ErrResourceNotFound itself.
func (m *MetaService) GetArtifact(path string) (io.ReadSeekCloser, error) {
	file, err := m.Artifact(context.Background(), path)
	return file, bare(err)
}

// Artifact brings a file out of the guest, whole, into temporary storage. Closing it removes it
// there. It tries three times (Limits.Tries). The errors, for errors.Is and errors.As:
// ErrResourceNotFound; ErrNonFatalInternalError with every try's reason below it, or a *LimitError;
// ctx's cause; ErrSandboxTerminated after Close.
func (m *MetaService) Artifact(ctx context.Context, path string) (io.ReadSeekCloser, error) {
	storage, err := m.storage()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNonFatalInternalError, err)
	}
	return m.service.Fetch(ctx, path, storage)
}

// ListFolder is Folder without a context and with the paths alone. A folder that can't be walked is
// ErrResourceNotFound itself.
func (m *MetaService) ListFolder(path string) ([]string, error) {
	listing, err := m.Folder(context.Background(), path)
	if err != nil {
		return nil, bare(err)
	}
	files := make([]string, len(listing.Files))
	for i, file := range listing.Files {
		files[i] = file.Path
	}
	return files, nil
}

// Folder lists all regular files below a folder of the guest. Every path is inside the folder; what
// the guest told beyond that is counted in Listing.Refused. The errors are those of Artifact.
func (m *MetaService) Folder(ctx context.Context, path string) (Listing, error) {
	return m.service.List(ctx, path)
}

// ExecShell is Shell without a context, for a command with or without a terminal; an empty command is the
// guest's default shell. It gives up after the times of Limits, and tries once: a second try might run the
// command twice. The shell's own errors come bare: ErrShellTerminated, ErrShellAborted.
func (m *MetaService) ExecShell(command []string, tty bool) (Shell, error) {
	session, err := m.Shell(context.Background(), ShellSpec{Command: command, TTY: tty})
	if err != nil {
		return nil, err // not a nil in a Shell
	}
	return session, nil
}

// Shell runs a process in the guest, with its streams here; ctx bounds the start alone. Whoever has the
// shell reads its outputs to their ends, or closes them, or aborts it; Close ends it too. The zero ShellSpec
// is the guest's default shell. Its variables, folder and user need guest-tools that know them: for these it
// waits for the guest's first poll, and tells the old ones by ErrFeatureNotSupported. The other errors are
// those of Artifact but for ErrResourceNotFound, after one try; a *LimitError is one shell too many.
func (m *MetaService) Shell(ctx context.Context, spec ShellSpec) (ShellSession, error) {
	return m.service.OpenShell(ctx, spec)
}

// KillProcess is Kill without a context.
func (m *MetaService) KillProcess() error { return m.Kill(context.Background()) }

// Kill ends the task's whole process tree in the guest, and returns when it has ended. The task's
// result follows. The errors are those of Artifact.
func (m *MetaService) Kill(ctx context.Context) error { return m.service.Kill(ctx) }

// Outcome waits for the task's result and the end of its log. The error is ctx's cause, or
// ErrSandboxTerminated after Close.
func (m *MetaService) Outcome(ctx context.Context) (Outcome, error) { return m.service.Outcome(ctx) }

// Lost is closed when a guest that has polled has neither polled nor had a request open for
// Limits.Silence.
func (m *MetaService) Lost() <-chan struct{} { return m.service.Lost() }

// StopPollers answers the guest's parked polls with nothing to do, and from now on each poll after a
// second: for a guest that is about to go. What no guest has taken by then fails.
func (m *MetaService) StopPollers() { m.service.StopPolls() }

// Close ends every wait and transfer with ErrSandboxTerminated. Artifacts that were returned stay
// until they are closed. Any number of times.
func (m *MetaService) Close() error { return m.service.Close() }

// bare strips what old users would trip over, who compare with ==.
func bare(err error) error {
	if errors.Is(err, ErrResourceNotFound) {
		return ErrResourceNotFound
	}
	return err
}

var _ http.Handler = (*MetaService)(nil)
