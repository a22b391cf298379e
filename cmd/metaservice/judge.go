package main

import (
	"errors"
	"fmt"

	"github.com/hexworker/metaservice/domain"
)

// judge finds the exit status, and says why where it isn't the task's own doing.
func (j *job) judge(e *ended) int {
	signal := j.interrupts.came()
	status, why := verdict(e.outcome)
	reasons := []error{why}
	switch {
	case signal != 0:
		status = exitSignal + int(signal)
		reasons = []error{fmt.Errorf("ended by %s", signalName(signal)), abnormal(e.outcome.Err)}
	case e.logErr != nil && (status == 0 || e.outcome.Status == domain.StatusKilled):
		status = exitOurs
		reasons = []error{fmt.Errorf("the log is incomplete: %w", e.logErr)}
	case e.logErr != nil:
		reasons = append(reasons, fmt.Errorf("the log is incomplete: %w", e.logErr))
	}
	if len(e.reasons) > 0 {
		status = failUnless(status)
	}
	e.reasons = append(reasons, e.reasons...)
	for _, reason := range e.reasons {
		if reason != nil {
			j.words.Error(reason.Error())
		}
	}
	if cut := e.outcome.Log.Cut; cut > 0 {
		j.words.Warn(fmt.Sprintf("the log was cut at its limit: the last %s are missing; raise it with --limit LogBytes=…", amountOf(cut)))
	}
	return status
}

// abnormal drops what an interruption brings about in any case.
func abnormal(err error) error {
	if errors.Is(err, errInterrupted) || errors.Is(err, domain.ErrSandboxAborted) {
		return nil
	}
	return err
}

// failUnless is status, or our own failure where that is a success.
func failUnless(status int) int {
	if status == 0 {
		return exitOurs
	}
	return status
}

// verdict is the exit status of an outcome, and what there is to say about it: nothing where the
// task's own log says it.
func verdict(outcome domain.Outcome) (status int, why error) {
	switch outcome.Status {
	case domain.StatusSuccess:
		return 0, nil
	case domain.StatusTimedOut:
		return exitTimedOut, outcome.Err
	case domain.StatusFailed:
		return failure(outcome)
	}
	if outcome.Err == nil {
		return exitOurs, fmt.Errorf("the task ended: %s", outcome.Status)
	}
	return exitOurs, outcome.Err
}

// failure is the verdict on a task that the guest called a failure, or whose log is not whole.
func failure(outcome domain.Outcome) (status int, why error) {
	report := outcome.Report()
	switch {
	case outcome.Result.Success:
		return exitOurs, outcome.Err
	case report == nil: // a guest of version 1
		return 1, outcome.Err
	case report.ExitCode == 0:
		return exitOurs, errors.Join(fmt.Errorf("the guest calls the task a failure: %s", report), outcome.Err)
	case report.Reason != domain.ReasonExited && report.Reason != domain.ReasonStartFailed:
		return exitCode(report.ExitCode), errors.Join(fmt.Errorf("the task ended: %s", report), outcome.Err)
	}
	return exitCode(report.ExitCode), outcome.Err
}

// exitCode fits a task's code, which may have 32 bits, into the 8 that a process has here: what
// failed must not end up as 0.
func exitCode(code int) int { return min(code, 255) }
