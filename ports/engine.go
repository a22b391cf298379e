package ports

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/hexworker/metaservice/domain"
)

// Registry is a worker's list of engines.
type Registry interface {
	// Register adds a provider under a name. domain.ErrNamingConflict for a name that is taken or empty;
	// any error for a provider that is nil.
	Register(name string, provider EngineProvider) error
}

// EngineProvider makes engines of one kind. Embed EngineProviderBase.
type EngineProvider interface {
	// NewEngine makes an engine, whose config is JSON, or empty for the defaults. An error names every
	// mistake in it. Whoever gets the engine calls its Dispose.
	NewEngine(config []byte) (Engine, error)
	// ConfigSchema is the JSON Schema of NewEngine's config; nil if there is none.
	ConfigSchema() []byte
}

// Engine runs tasks in sandboxes. Safe for concurrent use. Embed EngineBase.
type Engine interface {
	// NewSandboxBuilder begins a sandbox. It takes its place among those that may be there at once,
	// until the builder is discarded or the sandbox is disposed of. A *MalformedPayloadError,
	// domain.ErrMaxConcurrencyExceeded, domain.ErrSandboxTerminated after Dispose.
	NewSandboxBuilder(options SandboxOptions) (SandboxBuilder, error)
	// Capabilities tells what this engine can do.
	Capabilities() Capabilities
	// PayloadSchema is the JSON Schema of a payload; nil if there is none.
	PayloadSchema() []byte
	// Dispose refuses new sandboxes from now on, aborts those that go on, and returns when all is
	// released, or with ctx's cause. The error tells what could not be released, too. Any number of times.
	Dispose(ctx context.Context) error
}

// Capabilities are what engines differ in.
type Capabilities struct {
	MaxConcurrency int  // sandboxes at once; 0 is any number
	Shells         bool // NewShell works
	Proxies        bool // AttachProxy works
	Isolated       bool // the task can't reach its host's files, processes and network
}

// SandboxOptions are what a sandbox is made of.
type SandboxOptions struct {
	Payload []byte // JSON, as PayloadSchema has it
	// Log takes the task's log; nil drops it. It isn't written to any more once the result is there, but
	// for a Write in which it blocks: such a sink holds the end of its sandbox up, by a few seconds at most.
	Log LogSink
}

// SandboxBuilder prepares one sandbox. Safe for concurrent use. Whoever gets it calls StartSandbox or
// Discard; from then on every method but Artifacts returns domain.ErrSandboxBuilderDiscarded. Embed
// SandboxBuilderBase.
type SandboxBuilder interface {
	// SetEnvironmentVariable adds a variable to the payload's. ErrNamingConflict for one that is there,
	// domain.ErrInvalidExecute for what can't be one.
	SetEnvironmentVariable(name, value string) error
	// AttachProxy lets the guest reach a handler at /NAME/…, with the prefix removed, until the task has
	// its result. ErrNamingConflict for a name that is taken or reserved, domain.ErrInvalidProxyName for
	// what can't be one.
	AttachProxy(name string, handler http.Handler) error
	// Artifacts are the paths that the payload asks the worker to keep, files or folders.
	Artifacts() []string
	// StartSandbox boots the machine. ctx bounds the start alone. After an error all is released, the
	// builder's place too: a *MalformedPayloadError for options that the machine refuses,
	// domain.ErrSandboxTerminated where the engine is disposed of, domain.ErrNonFatalInternalError with its
	// cause (ctx's, too) for a machine that doesn't start.
	StartSandbox(ctx context.Context) (Sandbox, error)
	// Discard releases a builder that is not to be started.
	Discard() error
}

// Sandbox is a task on its way. Safe for concurrent use; nothing waits for a guest under a lock. It is
// released by its result set's Dispose; by an Abort that returned nil or ErrSandboxAborted (after
// ErrSandboxTerminated there is a result set to be disposed of); or by itself, where WaitForResult returns
// an error other than ctx's. Embed SandboxBase.
type Sandbox interface {
	// WaitForResult waits for the task's end, and for its shells'. Any number of callers get the same.
	// domain.ErrSandboxAborted after Abort; domain.ErrSandboxTerminated once the result set was disposed
	// of; an *OutcomeError, which is a domain.ErrNonFatalInternalError, where there is no guest any more
	// that could be asked for files: it was lost, or its machine died; ctx's cause.
	WaitForResult(ctx context.Context) (ResultSet, error)
	// NewShell runs a command in the guest, with its streams here; an empty one is the guest's default
	// shell. domain.ErrFeatureNotSupported, ErrSandboxTerminated, ErrSandboxAborted, ctx's cause; a guest that
	// doesn't answer, and one shell too many (a LimitError), are an ErrNonFatalInternalError with its cause.
	NewShell(ctx context.Context, command []string, tty bool) (Shell, error)
	// OpenShell is NewShell with all that a shell can be told. ctx bounds the start alone. Besides its
	// errors, domain.ErrInvalidAction for a spec that can't be. ErrFeatureNotSupported names what the guest's
	// tools are too old for.
	OpenShell(ctx context.Context, spec domain.ShellSpec) (ShellSession, error)
	// Kill has the guest end the task, and doesn't wait; it aborts the shells. The result set's Success is false, and the
	// guest's files can be had. Again is nil; too late is ErrSandboxTerminated or ErrSandboxAborted.
	Kill() error
	// Abort ends it at once, and returns when all is released. Too late is ErrSandboxTerminated, or
	// ErrSandboxAborted for a second one, which returns when all is released too. Any other error tells
	// what could not be released.
	Abort() error
}

// ResultSet is the end of a task whose guest is still there. Safe for concurrent use. Whoever gets it
// calls Dispose; from then on the others return domain.ErrSandboxTerminated. Embed ResultSetBase.
type ResultSet interface {
	// Success tells whether the task succeeded, with all of its log.
	Success() bool
	// Outcome is the status, the exit report, and whether the log is complete.
	Outcome() domain.Outcome
	// ExtractFile brings a file out, whole. The caller closes it. domain.ErrResourceNotFound,
	// ErrNonFatalInternalError with its cause (a path that can't be one, too), ctx's cause.
	ExtractFile(ctx context.Context, path string) (io.ReadSeekCloser, error)
	// ExtractFolder brings all files below a folder out and passes each to the handler, several at a
	// time. An error of the handler stops it: then it is domain.ErrHandlerInterrupt, which wraps that
	// error. Otherwise the errors of ExtractFile, of the first file that failed.
	ExtractFolder(ctx context.Context, path string, handler FileHandler) error
	// Dispose releases the guest and all that belongs to it, and returns when nothing is left but
	// handlers of ExtractFolder that are running, which are the caller's. The error tells what could not
	// be released. Any number
	// of times.
	Dispose() error
}

// FileHandler gets a file of a folder, by a name that is relative to the folder, has '/' between its
// parts and can't leave it. The file is closed when the handler returns. It is called by several
// goroutines at a time.
type FileHandler func(name string, file io.ReadSeeker) error

// Shell is a process in the guest with its streams here. All of it is safe for concurrent use, at any
// time and any number of times, but for each single stream, which one goroutine at a time reads or writes.
//
// Whoever has a shell reads both outputs to their ends, or closes them: one that is neither read nor closed
// stalls, and with it, in the end, the shell, for the guest says that it has ended only once its output is
// out. A shell that is over needs no closing; Abort ends one that isn't.
type Shell interface {
	// StdinPipe is the shell's standard input. Write returns when the bytes are with the transport, and
	// blocks while the shell doesn't take them; once the shell has ended it is ErrShellTerminated, or
	// ErrShellAborted. Close ends the input, which with a terminal ends the shell.
	StdinPipe() io.WriteCloser
	// StdoutPipe is the shell's standard output, or all that it writes to its terminal. What was sent is
	// still there after the shell has ended. It ends with io.EOF only where the guest has said so; an
	// output that broke off is an ErrNonFatalInternalError with its cause, after Abort ErrShellAborted.
	// Close drops what comes, and doesn't disturb the shell.
	StdoutPipe() io.ReadCloser
	// StderrPipe is the shell's standard error, empty with a terminal. Otherwise as StdoutPipe.
	StderrPipe() io.ReadCloser
	// SetSize sets the size of the shell's terminal, in characters, and doesn't wait. ErrFeatureNotSupported
	// without a terminal; ErrShellTerminated, ErrShellAborted.
	SetSize(columns, rows uint16) error
	// Abort ends the shell with all its processes, and doesn't wait for the guest: they are gone within 6 s.
	// ErrShellTerminated for one that has ended, ErrShellAborted for one that was aborted before.
	Abort() error
	// Wait waits for the shell's end, and tells whether it succeeded. ErrShellAborted after Abort; an
	// ErrNonFatalInternalError with its cause where the connection ended and the guest never said how the
	// shell did.
	Wait() (bool, error)
}

// ShellSession is a Shell that tells more.
type ShellSession interface {
	Shell
	// Result waits as Wait does. It has a report where the guest could tell. The errors are Wait's, and
	// ctx's cause.
	Result(ctx context.Context) (domain.Result, error)
	// Done is closed when the shell has ended: Wait returns at once.
	Done() <-chan struct{}
}

// MalformedPayloadError is a payload that can't be run: the task's author has to change it.
type MalformedPayloadError struct {
	Mistakes []PayloadMistake // at least one
}

// PayloadMistake is one thing that is wrong with a payload.
type PayloadMistake struct {
	Path  string // where: such as command[2], or timeout
	Found string // what is there
	Right string // what would be right
}

func (m PayloadMistake) String() string {
	return fmt.Sprintf("%s is %s, it must be %s", m.Path, m.Found, m.Right)
}

func (e *MalformedPayloadError) Error() string {
	text := "malformed payload: "
	for i, mistake := range e.Mistakes {
		if i > 0 {
			text += "; "
		}
		text += mistake.String()
	}
	return text
}

// OutcomeError is a task that ended without a guest to ask for its files.
type OutcomeError struct{ Outcome domain.Outcome }

func (e *OutcomeError) Error() string {
	return fmt.Sprintf("%v: %s: %v", domain.ErrNonFatalInternalError, e.Outcome.Status, e.Outcome.Err)
}

// Unwrap gives the class and the cause.
func (e *OutcomeError) Unwrap() []error {
	return []error{domain.ErrNonFatalInternalError, e.Outcome.Err}
}

// EngineProviderBase has what an EngineProvider may leave out. Methods that are added to the contract
// later are added here, so that embedding it keeps a provider building.
type EngineProviderBase struct{}

// ConfigSchema returns nil.
func (EngineProviderBase) ConfigSchema() []byte { return nil }

// EngineBase has what an Engine may leave out.
type EngineBase struct{}

// Capabilities are none.
func (EngineBase) Capabilities() Capabilities { return Capabilities{} }

// PayloadSchema returns nil.
func (EngineBase) PayloadSchema() []byte { return nil }

// Dispose has nothing to release.
func (EngineBase) Dispose(context.Context) error { return nil }

// SandboxBuilderBase has what a SandboxBuilder may leave out.
type SandboxBuilderBase struct{}

// SetEnvironmentVariable is not supported.
func (SandboxBuilderBase) SetEnvironmentVariable(string, string) error {
	return domain.ErrFeatureNotSupported
}

// Artifacts are none.
func (SandboxBuilderBase) Artifacts() []string { return nil }

// AttachProxy is not supported.
func (SandboxBuilderBase) AttachProxy(string, http.Handler) error {
	return domain.ErrFeatureNotSupported
}

// Discard has nothing to release.
func (SandboxBuilderBase) Discard() error { return nil }

// SandboxBase has what a Sandbox may leave out.
type SandboxBase struct{}

// NewShell is not supported.
func (SandboxBase) NewShell(context.Context, []string, bool) (Shell, error) {
	return nil, domain.ErrFeatureNotSupported
}

// OpenShell is not supported.
func (SandboxBase) OpenShell(context.Context, domain.ShellSpec) (ShellSession, error) {
	return nil, domain.ErrFeatureNotSupported
}

// Kill is not supported.
func (SandboxBase) Kill() error { return domain.ErrFeatureNotSupported }

// Abort is not supported.
func (SandboxBase) Abort() error { return domain.ErrFeatureNotSupported }

// ResultSetBase has what a ResultSet may leave out.
type ResultSetBase struct{}

// ExtractFile is not supported.
func (ResultSetBase) ExtractFile(context.Context, string) (io.ReadSeekCloser, error) {
	return nil, domain.ErrFeatureNotSupported
}

// ExtractFolder is not supported.
func (ResultSetBase) ExtractFolder(context.Context, string, FileHandler) error {
	return domain.ErrFeatureNotSupported
}

// Dispose has nothing to release.
func (ResultSetBase) Dispose() error { return nil }
