package domain

import (
	"errors"
	"fmt"
)

// Status is how a run of a task ended: exactly one of these.
type Status uint8

// The statuses.
const (
	StatusNone Status = iota // not ended
	StatusSuccess
	StatusFailed
	StatusKilled      // the host's caller ended it
	StatusAborted     // the host's caller gave it up, at once
	StatusTimedOut    // its time was over
	StatusGuestLost   // the guest fell silent
	StatusMachineDied // the guest's machine ended, or never got as far as asking what to run
)

var statusNames = [...]string{
	StatusNone:        "none",
	StatusSuccess:     "success",
	StatusFailed:      "failed",
	StatusKilled:      "killed",
	StatusAborted:     "aborted",
	StatusTimedOut:    "timed-out",
	StatusGuestLost:   "guest-lost",
	StatusMachineDied: "machine-died",
}

// String is the status as it is written in results for programs.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// MarshalText is String.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ErrLogIncomplete is a task whose guest reported a result, but part of whose log never came.
var ErrLogIncomplete = errors.New("log incomplete")

// ErrForeignResult is a result from a guest that never asked this host what to run: it may be the
// result of another host's task, at the same address before.
var ErrForeignResult = errors.New("the guest reported a result, but never asked this host what to run")

// Outcome is how a task ended, with all that is known of it.
type Outcome struct {
	Status Status
	Result *Result // what the guest said; nil if it never did
	Log    LogSummary
	// Err is why, where it isn't the task's own doing: wraps ErrLogIncomplete, ErrGuestLost, what
	// the machine died of. It is nil for a success, and for a failure that the guest reported after
	// a whole log.
	Err error
}

// Resolved is the outcome of a task whose guest has reported a result. A success with a log that
// broke off is none: nobody can tell what is missing.
func Resolved(result Result, log LogSummary) Outcome {
	o := Outcome{Status: StatusFailed, Result: &result, Log: log}
	if log.Broken != nil {
		o.Err = fmt.Errorf("%w: %w", ErrLogIncomplete, log.Broken)
	}
	if result.Success && o.Err == nil {
		o.Status = StatusSuccess
	}
	return o
}

// Succeeded tells whether the task did, and its log is whole up to the limit on its size.
func (o Outcome) Succeeded() bool { return o.Status == StatusSuccess }

// Report is the guest's exit report, or nil.
func (o Outcome) Report() *Report {
	if o.Result == nil {
		return nil
	}
	return o.Result.Report
}
