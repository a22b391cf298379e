package ports

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// Host is a guest's view of its host. Every method but OpenLog makes one request, and returns when it
// is answered: trying again is the caller's. A refusal by the host is a *domain.Error; anything else
// is the way to the host. Safe for concurrent use.
type Host interface {
	// Hello tells the host of this guest. A refusal with CodeNoSuchEndPoint is a host of version 1.
	Hello(ctx context.Context, hello domain.Hello) (domain.Features, error)
	// HasToken tells whether there is a token, which then every request shows. It makes no request.
	HasToken() bool
	// TakeToken asks for the token of domain.FeatureToken, which the host hands out once. A refusal with
	// CodeNoSuchEndPoint is a host that hands none out; one with CodeResourceConflict, one whose token
	// somebody has already.
	TakeToken(ctx context.Context) error
	// Execute asks what to run.
	Execute(ctx context.Context) (domain.Execute, error)
	// OpenLog opens a log body. ctx bounds its whole life.
	OpenLog(ctx context.Context) (LogStream, error)
	// Resolve reports the result; its report is sent only if it has one.
	Resolve(ctx context.Context, result domain.Result) error
	// Poll asks for an action, for as long as the host holds the poll. ErrUnknownAction never; an
	// action of a kind that this version doesn't know is domain.ErrUnknownKind.
	Poll(ctx context.Context) (domain.Action, error)
	// SendArtifact answers with a file's content, and doesn't close it.
	SendArtifact(ctx context.Context, id domain.ActionID, file File) error
	// SendNotFound answers a get-artifact whose file can't be opened, and a get-folder.
	SendNotFound(ctx context.Context, id domain.ActionID) error
	// SendFolder answers a list-folder with the names as they are found. Any error amid names breaks
	// the request off, so that the host never takes half a list for the whole, and is returned.
	SendFolder(ctx context.Context, id domain.ActionID, names iter.Seq2[string, error]) error
	// SendFolderNotFound answers a list-folder whose folder can't be walked.
	SendFolderNotFound(ctx context.Context, id domain.ActionID) error
	// SendArchive answers a get-folder with the files as they come, and doesn't close them. A file that can't
	// be read from its start is told as one that failed. An error amid files, or of a file of which a part was
	// sent, breaks the request off, so that the host never takes part of a folder for the whole, and is
	// returned. A folder that can't be walked is answered by SendNotFound.
	SendArchive(ctx context.Context, id domain.ActionID, files iter.Seq2[FolderFile, error]) error
	// SendKilled answers a kill-process.
	SendKilled(ctx context.Context, id domain.ActionID) error
	// OpenShell answers an exec-shell: it connects the shell to its host. shell2 tells that both know
	// domain.FeatureShell2. ctx bounds the start alone.
	OpenShell(ctx context.Context, id domain.ActionID, shell2 bool) (GuestShell, error)
}

// LogStream is a log body on its way. Write returns when the bytes are with the transport, and
// blocks while the host doesn't take them. One goroutine at a time writes and closes.
type LogStream interface {
	io.Writer
	// Close ends the body, and returns nil once the host has said that it has all of it.
	Close() error
	// Abort breaks the body off, so that the host knows it is incomplete. After Close it does nothing.
	Abort()
}

// File is an open regular file. The caller closes it.
type File interface {
	io.ReadCloser
	// Size is what there was when it was opened.
	Size() int64
}

// FolderFile is one file of a folder on its way to the host.
type FolderFile struct {
	Name    string             // relative to the folder, with '/' between its parts; "." where the path asked for is the file
	File    File               // nil where it can't be sent
	Failure domain.FileFailure // why not
}

// FailureOf is the protocol's word for an error of opening or reading a file.
func FailureOf(err error) domain.FileFailure {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return domain.FailureNotFound
	case errors.Is(err, fs.ErrPermission):
		return domain.FailureDenied
	case errors.Is(err, ErrNotRegular):
		return domain.FailureNotRegular
	}
	return domain.FailureIO
}

// ErrNotRegular is a path that leads to something other than a regular file: a folder, a device, a
// FIFO, a socket.
var ErrNotRegular = errors.New("not a regular file")

// ErrPassedOver is a folder that a walk may not look into, and goes on without.
var ErrPassedOver = errors.New("passed over")

// Files reads the guest's files. Relative paths are taken from the task's working folder.
type Files interface {
	// Open opens a regular file, following links, and never waits for one that is none (a FIFO).
	// fs.ErrNotExist, fs.ErrPermission, ErrNotRegular.
	Open(path string) (File, error)
	// Walk yields the paths of all regular files below a folder, each beginning with the path given
	// (cleaned); of a regular file, the file itself. Links below the folder are not followed, and
	// what vanishes meanwhile is passed over. A folder below it that may not be read is passed over,
	// too, and told by an error within the sequence that is ErrPassedOver, after which more may follow;
	// any other error ends it. The first return is the error of a folder that can't be walked at all.
	Walk(ctx context.Context, path string) (iter.Seq2[string, error], error)
}

// Processes starts process trees.
type Processes interface {
	// Start starts a command. A command that can't be started is a *StartError.
	Start(spec ProcessSpec) (Process, error)
}

// TerminalSize is a terminal's size in characters.
type TerminalSize struct{ Columns, Rows uint16 }

// ProcessSpec says what to start. Its standard input is empty, its standard output and error are one
// stream: a terminal where Terminal is set and the platform has one (with newlines left as they are),
// else a pipe.
type ProcessSpec struct {
	Command  []string // looked up on the PATH of Env
	Env      []string // NAME=VALUE, the whole of it; of two with the same name the later one counts
	Dir      string   // where it starts; empty is the current folder
	User     string   // a name, or a number; empty is the current user
	Terminal *TerminalSize
}

// StartError is a command that can't be started, with the exit code that shells give it: 127 where
// it isn't there, else 126.
type StartError struct {
	ExitCode int
	Err      error
}

func (e *StartError) Error() string { return e.Err.Error() }

func (e *StartError) Unwrap() error { return e.Err }

// ErrOutputCut is an output that was given up while the tree still wrote to it, so that something is
// missing.
var ErrOutputCut = errors.New("the output was cut: processes of the task still wrote when it was given up, after the command's end")

// Process is a started command and all that comes of it: its tree. Children stay in the tree when
// they leave the process group or the session, or when their parent ends. Whoever started it calls
// Close. Safe for concurrent use, but for Output, which one goroutine reads.
type Process interface {
	// Output is what the tree writes. It ends when nobody can write to it any more, or, after the
	// command itself has ended, when it has been waited 2 s in all for more, or 16 MiB more have come: a
	// child may keep it open for ever. What was in it when the command ended is delivered however slowly
	// it is read, and the time between reads doesn't count. The end is ErrOutputCut in place of io.EOF
	// where the tree was still writing then; a child that just holds it open doesn't count.
	Output() io.Reader
	// Wait waits for the command's own end; its children may live on. Any number of times. The error
	// is ctx's.
	Wait(ctx context.Context) (domain.Report, error)
	// Terminate asks the command, and it alone, to end, and doesn't wait.
	Terminate() error
	// Kill ends the whole tree: it stops it, asks it to end, and kills after grace what is still
	// there; once ctx ends, at once. It returns when all is gone, or with what could not be killed.
	// A tree that is gone already is no error. A command that was killed so reports ReasonKilled.
	Kill(ctx context.Context, grace time.Duration) ([]Survivor, error)
	// Close kills what is left of the tree, at once, and releases what the tree held. Any number of
	// times; Output ends.
	Close() error
}

// Sized is an Output that can hold so many bytes while nobody reads it, such as a pipe. Who wants few and
// large reads may leave it alone for a moment to fill.
type Sized interface {
	io.Reader
	Capacity() int
}

// Survivor is a process that could not be killed.
type Survivor struct {
	PID     int
	Command string // as the system tells it: not to be trusted
}

// Shells starts processes with their streams here.
type Shells interface {
	// StartShell starts a command with its standard input, and with either a terminal of the size in spec,
	// which is its controlling one and does to newlines what terminals do, or standard output and error
	// apart. A command that can't be started is a *StartError; one that wants a terminal where there are
	// none is one whose cause is domain.ErrFeatureNotSupported.
	StartShell(spec ProcessSpec) (ShellProcess, error)
}

// ShellProcess is a Process with its streams here. Output is its standard output, or all that comes out of
// its terminal. Each of the streams is one goroutine's.
type ShellProcess interface {
	Process
	// Stdin is the standard input. Write blocks while the tree doesn't read, until Close of either, or until
	// the command itself has ended: nobody is to wait for a child that only holds it open. Closing it is the
	// tree's end of file; of a terminal, it hangs up, as the end of a connection would.
	Stdin() io.WriteCloser
	// ErrOutput is the standard error, as Output is; with a terminal it is nil.
	ErrOutput() io.Reader
	// SetSize sets the size of the terminal, and tells the processes in it; without one it is
	// domain.ErrFeatureNotSupported.
	SetSize(size TerminalSize) error
}

// GuestShell is the guest's end of a shell: what its host sends is read here, and what its host is to get
// is written here. Each of the streams is one goroutine's; all else is safe for concurrent use. Whoever
// opened it calls Exit or Close.
type GuestShell interface {
	// Stdin is what the host sends; io.EOF where the host ended it, and Err's error once it is over.
	Stdin() io.Reader
	// Stdout and Stderr send. Write blocks until the host has room for it, and is Err's error once it is
	// over; Close tells the stream's end. Both are io.ReaderFrom, which copies no byte twice.
	Stdout() io.WriteCloser
	Stderr() io.WriteCloser
	// Sizes gives the terminal's size whenever the host sets it: the newest one.
	Sizes() <-chan TerminalSize
	// Done is closed when it is over: the host aborted it, or the connection ended or fell silent.
	Done() <-chan struct{}
	// Err tells why it is over: domain.ErrShellAborted where the host aborted it; nil before Done, and after
	// Exit.
	Err() error
	// Exit tells how the shell ended, once both streams are closed, and ends the connection in order. It
	// returns when the host has hung up, or won't in time; the error is one of the sending.
	Exit(ctx context.Context, report domain.Report) error
	// Close breaks it off, so that the host never takes it for an end. After Exit it does nothing.
	Close() error
}
