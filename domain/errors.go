package domain

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that the host's callers meet. The first two end an action; those that begin with Sandbox,
// Shell and the rest belong to the engine contract and keep the names of the ancestor.
var (
	// ErrResourceNotFound is a file or folder that isn't there (or, from a version 1 guest, one that
	// can't be opened: it has no other word for it).
	ErrResourceNotFound = errors.New("resource not found")
	// ErrNonFatalInternalError is a failure of host, guest or the way between them that says nothing
	// about the resource. It always wraps its cause.
	ErrNonFatalInternalError = errors.New("non-fatal internal error")
	// ErrShellTerminated is a shell that has already ended.
	ErrShellTerminated = errors.New("shell has terminated")
	// ErrShellAborted is a shell that was aborted.
	ErrShellAborted = errors.New("shell was aborted")
	// ErrSandboxTerminated is a sandbox that has ended.
	ErrSandboxTerminated = errors.New("sandbox has terminated")
	// ErrSandboxAborted is a sandbox that was aborted.
	ErrSandboxAborted = errors.New("sandbox was aborted")
	// ErrSandboxBuilderDiscarded is a builder that was discarded.
	ErrSandboxBuilderDiscarded = errors.New("sandbox builder was discarded")
	// ErrFeatureNotSupported is something that this engine or this guest can't do.
	ErrFeatureNotSupported = errors.New("feature not supported")
	// ErrNamingConflict is a name that is taken, or reserved.
	ErrNamingConflict = errors.New("naming conflict")
	// ErrInvalidProxyName is a name that no proxy can have.
	ErrInvalidProxyName = errors.New("invalid proxy name")
	// ErrHandlerInterrupt is a walk that its handler stopped.
	ErrHandlerInterrupt = errors.New("handler interrupted")
	// ErrMaxConcurrencyExceeded is a sandbox too many.
	ErrMaxConcurrencyExceeded = errors.New("max concurrency exceeded")
)

// Reasons for which an action fails, told apart so that whoever reads the error knows where to look.
// A caller finds them below ErrNonFatalInternalError with errors.Is.
var (
	// ErrNoPoll: no guest asked for work while the action was on offer.
	ErrNoPoll = errors.New("no guest polled for it in time")
	// ErrNoReply: a guest took the action and did not answer it.
	ErrNoReply = errors.New("a guest took it and did not reply in time")
	// ErrBrokenReply: the reply's connection ended before its body did.
	ErrBrokenReply = errors.New("the reply broke off")
	// ErrSlowReply: the reply's body came to a stop, or trickled below the least rate.
	ErrSlowReply = errors.New("the reply stalled")
	// ErrInvalidReply: the reply's body or content type can't be taken.
	ErrInvalidReply = errors.New("the reply is invalid")
	// ErrGuestError: the guest said that it could not, in a word that version 1 doesn't have.
	ErrGuestError = errors.New("the guest reported an error")
	// ErrStorage: the host could not keep what came.
	ErrStorage = errors.New("the host could not store it")
	// ErrGuestLost: the guest has polled before and then fell silent.
	ErrGuestLost = errors.New("guest lost")
)

// What the host answers a guest with when it refuses, beside *Error: the app's words, turned into
// codes by the wire.
var (
	// ErrUnknownAction is a reply to an action that is unknown, timed out or answered already. Its
	// text is constant: it must not tell which.
	ErrUnknownAction = errors.New("no such action is waiting for a reply: it is unknown, timed out or already answered")
	// ErrConflict is a result, an execute or a log that comes after the task was resolved otherwise.
	ErrConflict = errors.New("the task is already resolved")
	// ErrTooMany is one request too many at once; the guest may try again later.
	ErrTooMany = errors.New("too many requests of this kind at once")
	// ErrLog is a log sink that failed.
	ErrLog = errors.New("the log could not be written")
)

// Code is a refusal's name on the wire.
type Code string

// The six codes of version 1, then those of version 2 and of limits.
const (
	CodeMethodNotAllowed Code = "MethodNotAllowed"
	CodeNoSuchEndPoint   Code = "NoSuchEndPoint"
	CodeInternalError    Code = "InternalError"
	CodeResourceConflict Code = "ResourceConflict"
	CodeUnknownActionID  Code = "UnknownActionId"
	CodeInvalidPayload   Code = "InvalidPayload"

	CodeUnauthorized       Code = "Unauthorized"
	CodeForbidden          Code = "Forbidden"
	CodePayloadTooLarge    Code = "PayloadTooLarge"
	CodeMisdirectedRequest Code = "MisdirectedRequest"
	CodeTooManyRequests    Code = "TooManyRequests"
)

// Error is a refusal: the body of every answer of the host that isn't a success.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Error is the refusal in words. At the guest's end both fields came over the wire: the message is
// quoted, and so is a code that isn't one word.
func (e *Error) Error() string {
	code := string(e.Code)
	if len(code) > maxCode || strings.ContainsFunc(code, notLetter) {
		code = Quote(code)
	}
	return fmt.Sprintf("%s: %s", code, Quote(e.Message))
}

const maxCode = 64

func notLetter(c rune) bool { return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') }

// Is tells refusals apart by their code alone.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// LimitError is a limit that was hit. Trying again would hit it again, so nothing does.
type LimitError struct {
	Limit string // the field of Limits to raise
	Max   int64
	Unit  string
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("more than the %d %s that the limit %s allows", e.Max, e.Unit, e.Limit)
}
