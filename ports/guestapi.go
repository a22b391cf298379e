package ports

import (
	"context"
	"io"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// GuestAPI is what a guest may ask of its host. app/host implements it, and the HTTP API calls it: a
// driving port. Everything that comes in through it is a hostile guest's.
//
// The HTTP API asks Enter or EnterLog, and then Admit, AdmitLog or AdmitHello, before anything else of a request is looked at.
//
// ctx is the request's: it ends when the guest hangs up. Every method is safe for concurrent use.
// The errors are those of domain (ErrConflict, ErrUnknownAction, ErrInvalidReply and so on); anything
// else is the host's own failure.
type GuestAPI interface {
	// Enter takes a request in, as far as the limit on their rate allows: nil or ErrTooMany. It comes before
	// Admit, and is told the same.
	Enter(shown string) (Entry, error)

	// EnterLog is Enter for a log. It waits for its turn, for seconds at most: a guest of version 1 that is
	// refused has lost what it sent by then. The error is ErrTooMany, or the cause of ctx's end or the
	// service's.
	EnterLog(ctx context.Context, shown string) (Entry, error)

	// EnterReply takes in a reply that Enter refused and Admit didn't, once for each action that waits for
	// one. The caller makes sure that it is one that uses the id up.
	EnterReply(id domain.ActionID) bool

	// EnterPoll takes in a poll that Enter refused and Admit didn't, once for each action that waits for one.
	EnterPoll() bool

	// Admit tells whether a request is served that shows this token, which is empty where it shows none:
	// nil or ErrUnauthorized. It costs as little for a wrong one as for none.
	Admit(shown string) error

	// AdmitLog is Admit for a log: the token that it shows proves nothing of the guest's tools, and is not
	// demanded from then on.
	AdmitLog(shown string) error

	// AdmitHello is Admit for a hello, which a guest may say before it asks for the token.
	AdmitHello(shown string) error

	// HandToken passes the token to deliver, for the first who asks. deliver must return nil only once it is
	// written out: after an error, which is returned, nobody has it. ErrNoToken where this host hands none
	// out, ErrTokenTaken for a second time, ErrTooMany while it is on its way, ErrUnauthorized for a request
	// that shows a wrong one.
	HandToken(ctx context.Context, shown string, deliver func(domain.Token) error) error

	// Hello takes in a guest of version 2 and returns what this host offers. ErrInvalidHello.
	Hello(ctx context.Context, hello domain.Hello) (domain.Features, error)

	// Features is what may be used with this guest: what both named, nothing before a Hello.
	Features() domain.Features

	// Over is closed once the task has its result, or was given up without one: what served the task
	// alone is over.
	Over() <-chan struct{}

	// Execute is what the guest is to run, as often as it asks, until the task has its result:
	// from then on ErrConflict, so that a guest which rebooted doesn't run it twice.
	Execute(ctx context.Context) (domain.Execute, error)

	// Poll waits for an action, for the hold time at most, and passes it to deliver, or an action of
	// KindNone if there was none. deliver must return nil only once the action is written out: after
	// an error, or where ctx ends first, the action goes to the next poll. Poll returns deliver's
	// error, or ctx's cause if it delivered nothing.
	Poll(ctx context.Context, deliver func(domain.Action) error) error

	// Park is Poll for whoever has no goroutine to wait on. It doesn't wait itself, and the caller must end
	// what it returns.
	Park() Poll

	// Log appends body to the task's log as it arrives, until its end. It returns nil when all of it
	// was taken (what the limit on log bytes cut off counts as taken; the outcome tells), ErrLog if
	// the sink failed, ErrConflict where the log was closed, and body's error if that broke off.
	Log(ctx context.Context, body io.Reader) error

	// Resolve takes the task's result. The same again is nil, the other ErrConflict. A result that
	// contradicts itself is ErrInvalidReport.
	Resolve(ctx context.Context, result domain.Result) error

	// Pending is the action that waits for a reply with this id; it stays so. ErrUnknownAction.
	Pending(id domain.ActionID) (domain.Action, error)

	// Artifact, Folder, Archive, Killed and Refuse answer an action and use its id up. They return
	// ErrUnknownAction, having read nothing, where no such action waits for a reply; else an error if
	// the reply could not be taken. The action must be of the kind that the method is for.
	Artifact(ctx context.Context, id domain.ActionID, reply ArtifactReply) error
	// Folder answers a list-folder.
	Folder(ctx context.Context, id domain.ActionID, reply FolderReply) error
	// Archive answers a get-folder.
	Archive(ctx context.Context, id domain.ActionID, reply ArchiveReply) error
	// Killed answers a kill-process.
	Killed(ctx context.Context, id domain.ActionID) error
	// Shell answers an exec-shell: connect is called once the id is used up, and completes the
	// handshake. It returns when the shell is over. An error of connect is returned, and told to whoever
	// asked for the shell.
	Shell(ctx context.Context, id domain.ActionID, connect func(ShellTerms) (HostShell, error)) error
	// Refuse answers any action with a reply that can't be taken, for the reason given.
	Refuse(ctx context.Context, id domain.ActionID, reason error) error
}

// Entry is a request that was taken in.
type Entry struct {
	// Tools tells that it is the guest's tools', whose token it shows.
	Tools bool
	// Asked is called where it turns out that the host asked for the request: then it doesn't count.
	Asked func()
}

// Poll is a guest's poll that waits for an action. Whoever parked it calls Deliver once Notify told that it is
// time to, or Leave, where the guest hangs up before. Both end it; after that neither does anything.
type Poll interface {
	// Notify has wake called when there is something to deliver, be it that there is nothing to do: at once
	// where that is so already. It is called once, by any goroutine, and neither blocks nor calls back. Another
	// Notify replaces the one before it.
	Notify(wake func())
	// Deliver passes what there is to deliver, as GuestAPI.Poll does, and returns its error.
	Deliver(deliver func(domain.Action) error) error
	// Leave has nothing handed out: an action that the poll was given goes to the next one.
	Leave()
}

// Body is the body of a reply. A Read that is blocked returns an error when the deadline passes; a
// zero time is no deadline. SetReadDeadline may be called from any goroutine. An error of it means
// that this body has no deadlines, so that only the caller can be freed in time, not the connection.
type Body interface {
	io.Reader
	SetReadDeadline(t time.Time) error
}

// BulkBody is a Body that may be taken off its connection by something else than Read.
type BulkBody interface {
	Body
	// MoveTo has w take up to most bytes of the body by itself, off an io.LimitedReader that tells how many
	// there are: where both can, they never come to this process. It returns how many w has, with io.EOF where
	// the body ends with them. After context.DeadlineExceeded, and errors.ErrUnsupported, which tells that it
	// can't be done, the body can be read on; after any other error it can't. One that is w's is
	// domain.ErrStorage.
	MoveTo(w io.ReaderFrom, most int64) (int64, error)
}

// ArtifactReply is the answer to a get-artifact. Its Body may be a BulkBody.
type ArtifactReply struct {
	Body  Body
	Size  int64  // as announced; -1 where it wasn't
	Error string // the guest's error header: "file-not-found", or empty
}

// FolderReply is the answer to a list-folder. Decode reads the list off the (bounded, paced) reader
// that it is given, and calls add with each name in turn; add's error ends it and is returned.
// notFound tells that the guest could not walk the folder.
type FolderReply struct {
	Body   Body
	Size   int64
	Decode func(r io.Reader, add func(name string) error) (notFound bool, err error)
}

// ArchiveReply is the answer to a get-folder. Decode reads the archive off the (bounded, paced, buffered)
// reader that it is given, to its very end and never ahead, and calls each with each entry in turn and its
// content, of which it may leave what it likes; each's error ends it and is returned.
type ArchiveReply struct {
	Body   Body
	Error  string // as in ArtifactReply
	Decode func(r io.Reader, each func(entry domain.ArchiveEntry, content io.Reader) error) error
}

// ShellTerms are what a shell's host end is made with.
type ShellTerms struct {
	Spec    domain.ShellSpec
	Memory  ShellMemory
	Silence time.Duration // for which the guest may leave pings unanswered; 0 is 45 s
}

// ShellMemory is what the shells of one guest may hold together of what the guest has sent and nobody
// has read. Safe for concurrent use.
type ShellMemory interface {
	// Take takes as much of what is left as a stream may have that wants so many bytes, which may be
	// nothing.
	Take(want int64) int64
	// Give gives back what was taken.
	Give(n int64)
}

// HostShell is the host's end of a shell that is connected.
type HostShell interface {
	ShellSession
	// Serve relays until the shell is over, or ctx ends, which breaks it off with ctx's cause. It returns
	// when the connection is closed and nothing of the shell runs any more; what was received can be read
	// still. It is called once.
	Serve(ctx context.Context)
	// Expire is Abort for a shell whose time is over: it has this result, and its outputs end behind what has
	// come of them, as where a guest sees to its time by itself.
	Expire(result domain.Result) error
}
