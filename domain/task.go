package domain

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode/utf8"
)

// Execute is what a guest is to run. Its environment often holds secrets, so it never shows its
// values, in a log or an error. JSON alone, which carries it to the guest, has them.
type Execute struct {
	Env     map[string]string `json:"env"`
	Command []string          `json:"command"`
}

// ErrInvalidExecute is a command or environment that no process could be started with.
var ErrInvalidExecute = errors.New("invalid command or environment")

// Check tells what of e no operating system would take: the name of a variable that is empty or holds
// '=' or NUL, a value or an argument with NUL. Nor may any be other than UTF-8, since JSON would carry
// something else to the guest. An empty command is fine: an entrypoint in the image may need none.
func (e Execute) Check() error {
	var errs []error
	for i, arg := range e.Command {
		switch {
		case strings.IndexByte(arg, 0) >= 0:
			errs = append(errs, fmt.Errorf("%w: argument %d holds a NUL byte", ErrInvalidExecute, i))
		case !utf8.ValidString(arg):
			errs = append(errs, fmt.Errorf("%w: argument %d is not UTF-8", ErrInvalidExecute, i))
		}
	}
	names := make([]string, 0, len(e.Env))
	for name := range e.Env {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case name == "":
			errs = append(errs, fmt.Errorf("%w: a variable without a name", ErrInvalidExecute))
		case strings.ContainsAny(name, "=\x00"):
			errs = append(errs, fmt.Errorf("%w: the variable name %s holds '=' or a NUL byte", ErrInvalidExecute, Quote(name)))
		case strings.IndexByte(e.Env[name], 0) >= 0:
			errs = append(errs, fmt.Errorf("%w: the value of the variable %s holds a NUL byte", ErrInvalidExecute, Quote(name)))
		case !utf8.ValidString(name), !utf8.ValidString(e.Env[name]):
			errs = append(errs, fmt.Errorf("%w: the variable %s is not UTF-8", ErrInvalidExecute, Quote(name)))
		}
	}
	return errors.Join(errs...)
}

// String tells how much there is, never what.
func (e Execute) String() string {
	return fmt.Sprintf("a command of %d arguments with %d variables", len(e.Command), len(e.Env))
}

// GoString is String: %#v shows no more.
func (e Execute) GoString() string { return e.String() }

// LogValue tells how much there is, never what.
func (e Execute) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("args", len(e.Command)), slog.Int("env", len(e.Env)))
}

// Reason is why a task's process ended.
type Reason string

// The reasons of the protocol's feature "result".
const (
	ReasonExited      Reason = "exited"
	ReasonSignaled    Reason = "signaled"
	ReasonKilled      Reason = "killed" // by kill-process
	ReasonTimeout     Reason = "timeout"
	ReasonStartFailed Reason = "start-failed"
	ReasonOOM         Reason = "oom"
)

var reasons = []Reason{ReasonExited, ReasonSignaled, ReasonKilled, ReasonTimeout, ReasonStartFailed, ReasonOOM}

// Exit codes that shells, and so everybody, use for a command that could not be run.
const (
	ExitNotExecutable = 126
	ExitNotFound      = 127
	exitSignalBase    = 128
)

// Report is how a process ended.
type Report struct {
	ExitCode int    `json:"exitCode"`
	Signal   string `json:"signal"` // such as SIGKILL; empty where no signal ended it
	Reason   Reason `json:"reason"`
	Message  string `json:"message"`
}

// ErrInvalidReport is a report that contradicts itself.
var ErrInvalidReport = errors.New("invalid exit report")

// maxSignal is the longest name of a signal: SIGRTMIN+15 and its like.
const maxSignal = 16

// Check tells whether r can be. Exit codes are those of the operating system: 32 bits, unsigned (on
// Windows) or the shell's 128 + signal.
func (r Report) Check() error {
	switch {
	case !slices.Contains(reasons, r.Reason):
		return fmt.Errorf("%w: the reason is %s, it must be one of %v", ErrInvalidReport, Quote(string(r.Reason)), reasons)
	case r.ExitCode < 0 || int64(r.ExitCode) > 1<<32-1:
		return fmt.Errorf("%w: the exit code is %d, it must be from 0 to 4294967295", ErrInvalidReport, r.ExitCode)
	case len(r.Signal) > maxSignal || strings.ContainsFunc(r.Signal, notSignal):
		return fmt.Errorf("%w: the signal is %s, it must be a name such as SIGTERM", ErrInvalidReport, Quote(r.Signal))
	}
	return nil
}

func notSignal(c rune) bool {
	return (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '+' && c != '-'
}

// Succeeded tells whether the process ended by itself with exit code 0.
func (r Report) Succeeded() bool {
	return r.Reason == ReasonExited && r.ExitCode == 0 && r.Signal == ""
}

// String is the report in words, the guest's message quoted.
func (r Report) String() string {
	text := fmt.Sprintf("%s with exit code %d", r.Reason, r.ExitCode)
	if r.Signal != "" {
		text = fmt.Sprintf("%s by %s", r.Reason, r.Signal)
	}
	if r.Message != "" {
		text += ": " + Quote(r.Message)
	}
	return text
}

// ExitSignaled is the exit code that a shell gives a process which signal number n ended.
func ExitSignaled(n int) int { return exitSignalBase + n }

// Result is what a guest says of its task, once. Report is nil where the guest has no words for it
// (version 1).
type Result struct {
	Success bool
	Report  *Report
}

// Check tells whether the result and its report agree. A failure may have any report: a task whose
// process exited with 0 can still have failed, as where its log could not be sent.
func (r Result) Check() error {
	if r.Report == nil {
		return nil
	}
	if err := r.Report.Check(); err != nil {
		return err
	}
	if r.Success && !r.Report.Succeeded() {
		return fmt.Errorf("%w: a success that %s", ErrInvalidReport, r.Report)
	}
	return nil
}

// Resolution is the task's one result: the first counts, the same again is fine, the other is a
// conflict. The zero Resolution is unresolved.
type Resolution struct {
	result   Result
	resolved bool
}

// Resolve takes a result. first is true for the one that counts.
func (r *Resolution) Resolve(result Result) (first bool, err error) {
	if !r.resolved {
		r.result, r.resolved = result, true
		return true, nil
	}
	if r.result.Success != result.Success {
		return false, ErrConflict
	}
	return false, nil
}

// Result is the result that counts; ok is false as long as there is none.
func (r *Resolution) Result() (result Result, ok bool) { return r.result, r.resolved }
