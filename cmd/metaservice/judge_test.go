package main

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

func report(code int, reason domain.Reason) *domain.Result {
	return &domain.Result{Success: code == 0, Report: &domain.Report{ExitCode: code, Reason: reason}}
}

func TestExitStatuses(t *testing.T) {
	noSpace := errors.New("no space left")
	for name, test := range map[string]struct {
		outcome domain.Outcome
		signal  syscall.Signal
		logErr  error
		others  error
		want    int
		says    string // empty for silence
	}{
		"success":                   {outcome: domain.Outcome{Status: domain.StatusSuccess, Result: report(0, domain.ReasonExited)}},
		"its own code":              {outcome: domain.Outcome{Status: domain.StatusFailed, Result: report(7, domain.ReasonExited)}, want: 7},
		"a command that isn't":      {outcome: domain.Outcome{Status: domain.StatusFailed, Result: report(127, domain.ReasonStartFailed)}, want: 127},
		"a code of 32 bits":         {outcome: domain.Outcome{Status: domain.StatusFailed, Result: report(1<<8, domain.ReasonExited)}, want: 255},
		"a signal in the guest":     {outcome: domain.Outcome{Status: domain.StatusFailed, Result: report(137, domain.ReasonSignaled)}, want: 137, says: "signaled"},
		"a failure with code 0":     {outcome: domain.Outcome{Status: domain.StatusFailed, Result: &domain.Result{Report: &domain.Report{Reason: domain.ReasonExited}}}, want: 125, says: "calls the task a failure"},
		"version 1 succeeds":        {outcome: domain.Outcome{Status: domain.StatusSuccess, Result: &domain.Result{Success: true}}},
		"version 1 fails":           {outcome: domain.Outcome{Status: domain.StatusFailed, Result: &domain.Result{}}, want: 1},
		"half a log":                {outcome: domain.Outcome{Status: domain.StatusFailed, Result: report(0, domain.ReasonExited), Err: domain.ErrLogIncomplete}, want: 125, says: "log incomplete"},
		"half a log and code 7":     {outcome: domain.Outcome{Status: domain.StatusFailed, Result: report(7, domain.ReasonExited), Err: domain.ErrLogIncomplete}, want: 7, says: "log incomplete"},
		"time over":                 {outcome: domain.Outcome{Status: domain.StatusTimedOut, Result: report(143, domain.ReasonKilled), Err: errors.New("its time is over")}, want: 124, says: "time is over"},
		"machine died":              {outcome: domain.Outcome{Status: domain.StatusMachineDied, Err: errors.New("it burnt")}, want: 125, says: "it burnt"},
		"guest lost":                {outcome: domain.Outcome{Status: domain.StatusGuestLost, Err: domain.ErrGuestLost}, want: 125, says: "guest lost"},
		"interrupted":               {outcome: domain.Outcome{Status: domain.StatusKilled, Result: report(143, domain.ReasonKilled)}, signal: syscall.SIGINT, want: 130, says: "ended by SIGINT"},
		"terminated":                {outcome: domain.Outcome{Status: domain.StatusAborted, Err: domain.ErrSandboxAborted}, signal: syscall.SIGTERM, want: 143, says: "ended by SIGTERM"},
		"its terminal went":         {outcome: domain.Outcome{Status: domain.StatusKilled}, signal: syscall.SIGHUP, want: 129, says: "ended by SIGHUP"},
		"artifact missing":          {outcome: domain.Outcome{Status: domain.StatusSuccess, Result: report(0, domain.ReasonExited)}, others: errors.New("artifact gone"), want: 125, says: "artifact gone"},
		"artifact missing, code 7":  {outcome: domain.Outcome{Status: domain.StatusFailed, Result: report(7, domain.ReasonExited)}, others: errors.New("artifact gone"), want: 7, says: "artifact gone"},
		"a log without room":        {outcome: domain.Outcome{Status: domain.StatusKilled, Result: report(143, domain.ReasonKilled)}, logErr: noSpace, want: 125, says: "the log is incomplete: no space left"},
		"a log without room, late":  {outcome: domain.Outcome{Status: domain.StatusSuccess, Result: report(0, domain.ReasonExited)}, logErr: noSpace, want: 125, says: "no space left"},
		"a log without room, and 7": {outcome: domain.Outcome{Status: domain.StatusFailed, Result: report(7, domain.ReasonExited)}, logErr: noSpace, want: 7, says: "no space left"},
		"a log that was cut":        {outcome: domain.Outcome{Status: domain.StatusSuccess, Result: report(0, domain.ReasonExited), Log: domain.LogSummary{Cut: 2048}}, says: "the last 2.0 KiB are missing; raise it with --limit LogBytes=…"},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			j := &job{interrupts: newInterrupts(), words: newWords(&said, false)}
			if test.signal != 0 {
				j.interrupts.add(test.signal)
			}
			e := ended{outcome: test.outcome, logErr: test.logErr}
			if test.others != nil {
				e.reasons = []error{test.others}
			}
			if got := j.judge(&e); got != test.want {
				t.Errorf("the exit status is %d, not %d", got, test.want)
			}
			if !strings.Contains(said.String(), test.says) || (test.says == "") != (said.Len() == 0) {
				t.Errorf("it says %q, not %q", said.String(), test.says)
			}
		})
	}
}
