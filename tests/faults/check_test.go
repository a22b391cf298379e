package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// check holds a history to what must always hold, and to what this one's fault leaves no excuse for.
//
// I5 and I8 are seen from outside as far as a whole shell shows them: its window was never overrun, or the
// host would have closed it. Package wsshell holds its frames to them.
func (h *history) check() (wrong []error) {
	for _, invariant := range []func() error{
		h.i1LogIsPrefix, h.i1ShellIsPrefix, h.i2NoSuccessUnasked, h.i3OneResolution, h.i4HandedOnce, h.i4AnsweredOnce,
		h.i12ArtifactWhole,
	} {
		if err := invariant(); err != nil {
			wrong = append(wrong, err)
		}
	}
	for _, invariant := range []func() error{h.i6i7ShellEnds, h.i9CallersReturn, h.recovers, h.fate} {
		if err := invariant(); err != nil {
			wrong = append(wrong, untimelyError{err})
		}
	}
	return wrong
}

// untimelyError is one that a machine which stood still may be to blame for: somebody's patience was over.
type untimelyError struct{ error }

// mayHitLog tells whether the log's connection may have failed: its own, or one that had served another
// request by then and was kept, and so is the log's if that begins just now.
func (c cell) mayHitLog() bool {
	return !c.kind.Harmless() && (c.endpoint.name == "log" || c.moment >= BeforeAnswer)
}

// killed tells whether the task was ended before it had said all.
func (h *history) killed() bool { return h.cell.endpoint.ask == "kill" }

// i1LogIsPrefix: what the host has is what the guest said, equal if the result is a success. Version 1 can
// go on after a broken connection, but not tell from where: then there is one hole, and no success.
func (h *history) i1LogIsPrefix() error {
	said := logHead + logTail
	if h.ended == nil && h.outcome.Succeeded() && h.log != said {
		return fmt.Errorf("I1: a success with %d bytes of log, the guest has said %d", len(h.log), len(said))
	}
	same := 0
	for same < min(len(h.log), len(said)) && h.log[same] == said[same] {
		same++
	}
	rest := h.log[same:]
	switch {
	case rest == "":
	case !h.cell.mayHitLog():
		return fmt.Errorf("I1: the log is no prefix: from byte %d on it goes on with %.40q", same, rest)
	case !strings.Contains(said[same:], rest):
		return fmt.Errorf("I1: the log has more than one hole: from byte %d on it goes on with %.40q", same, rest)
	}
	return nil
}

// i1ShellIsPrefix is the same of a shell's output.
func (h *history) i1ShellIsPrefix() error {
	if h.cell.endpoint.ask != "shell" {
		return nil
	}
	said, got := "hello\n"+shellIn+shellOut, string(h.asked.content)
	if !strings.HasPrefix(said, got) {
		return fmt.Errorf("I1: the shell's output is no prefix: %d bytes", len(got))
	}
	if h.asked.finished && got != said {
		return fmt.Errorf("I1: the shell has ended in order with %d bytes of output, it has said %d", len(got), len(said))
	}
	return nil
}

// i2NoSuccessUnasked: no success without the guest's word, neither of the task nor of the shell.
func (h *history) i2NoSuccessUnasked() error {
	if h.ended == nil && h.outcome.Succeeded() && (h.guest.success == 0 || h.cell.endpoint.exit != 0 || h.killed()) {
		return fmt.Errorf("I2: a success, though the guest has said so %d times, of exit code %d", h.guest.success, h.cell.endpoint.exit)
	}
	if h.asked.finished && !h.cell.endpoint.old && h.asked.exit != 7 {
		return fmt.Errorf("I2: the shell has ended with %d, in the guest it was 7", h.asked.exit)
	}
	return nil
}

// i3OneResolution: the callback is told once, and the host stands by it.
func (h *history) i3OneResolution() error {
	taken := 0
	for _, a := range h.answers {
		if a.method == http.MethodPut && a.status == http.StatusOK {
			taken = 1
		}
	}
	if len(h.told) != taken && (taken == 0 || h.ended == nil) {
		return fmt.Errorf("I3: the callback was told %v, and results were taken: %d", h.told, taken)
	}
	if h.ended != nil {
		return nil
	}
	if h.told[0] != h.outcome.Succeeded() {
		return fmt.Errorf("I3: the callback was told %t, the outcome is %s", h.told[0], h.outcome.Status)
	}
	same, other := "PUT "+wire.PathSuccess, "PUT "+wire.PathFailed
	if h.outcome.Result == nil || !h.outcome.Result.Success {
		same, other = other, same
	}
	conflict := fmt.Sprint(http.StatusConflict, domain.CodeResourceConflict)
	for request, want := range map[string]string{same: "200", other: conflict, "GET " + wire.PathExecute: conflict} {
		if got := h.replays[request]; got != want {
			return fmt.Errorf("I3: after the result, %s gets %s, want %s", request, got, want)
		}
	}
	return nil
}

// i4HandedOnce: the guest never answers the same action twice, however often it was handed over.
func (h *history) i4HandedOnce() error {
	for id, times := range h.guest.answered {
		if times > 1 {
			return fmt.Errorf("I4: the guest ran action %s %d times", id, times)
		}
	}
	return nil
}

// i4AnsweredOnce: the host takes one answer to each action, and refuses what comes later.
func (h *history) i4AnsweredOnce() error {
	taken := make(map[string]int)
	for _, a := range h.answers {
		if a.path == wire.PathReply && (a.status == http.StatusOK || a.status == http.StatusSwitchingProtocols) {
			taken[a.id]++
		}
	}
	for id, times := range taken {
		if times > 1 {
			return fmt.Errorf("I4: the host took %d answers to action %s", times, id)
		}
	}
	late := fmt.Sprint(http.StatusBadRequest, domain.CodeUnknownActionID)
	for request, got := range h.replays {
		if strings.HasPrefix(request, "POST ") && got != late {
			return fmt.Errorf("I4: a late %s gets %s, want %s", request, got, late)
		}
	}
	return nil
}

// i6i7ShellEnds: with a consumer that is gone and an input that has ended, all the rest comes still.
func (h *history) i6i7ShellEnds() error {
	if h.cell.endpoint.ask == "shell" && h.cell.kind.Harmless() && (h.asked.err != nil || !h.asked.finished) {
		return fmt.Errorf("I6, I7: nothing was lost, and the shell ended with %w", h.asked.err)
	}
	return nil
}

// i9CallersReturn: each within its context and a second.
func (h *history) i9CallersReturn() error {
	for _, c := range h.callers {
		if c.late > time.Second {
			return fmt.Errorf("I9: the caller of %s returned %s after its context", c.what, c.late)
		}
	}
	return nil
}

// i12ArtifactWhole: whole, or an error.
func (h *history) i12ArtifactWhole() error {
	path, content := h.cell.endpoint.artifact()
	switch {
	case h.cell.endpoint.ask == "artifact" && h.asked.err == nil && string(h.asked.content) != content:
		return fmt.Errorf("I12: an artifact of %d bytes, the file %q has %d", len(h.asked.content), path, len(content))
	case h.cell.endpoint.ask == "list" && h.asked.err == nil && h.asked.names != listNames:
		return fmt.Errorf("I12: a list of %d names, the folder has %d", h.asked.names, listNames)
	}
	return nil
}

// recovers: a fault strikes one connection once, so whatever may be tried again comes right in the end, and
// the guest serves its host afterwards.
func (h *history) recovers() error {
	if h.struck != 1 {
		return fmt.Errorf("the fault has struck %d times", h.struck)
	}
	if h.after.err != nil || string(h.after.content) != "small" {
		return fmt.Errorf("afterwards, a file is %q, %w", h.after.content, h.after.err)
	}
	switch e := h.cell.endpoint; {
	case e.ask == "shell":
		return h.shellFate()
	case h.asked.err != nil:
		return fmt.Errorf("%s failed for good: %w", e.ask, h.asked.err)
	}
	return nil
}

// shellFate: a shell is tried once, so it may fail, but in a class that tells of what.
func (h *history) shellFate() error {
	err := h.asked.err
	switch {
	case err == nil && h.asked.finished:
		return nil
	case errors.Is(err, metaservice.ErrNonFatalInternalError):
		return nil
	case h.cell.never() && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, metaservice.ErrShellAborted)):
		return nil
	}
	return fmt.Errorf("the shell ended with %w", err)
}

// fate: how the task must end.
func (h *history) fate() error {
	want := domain.StatusSuccess
	if h.cell.endpoint.exit != 0 || h.killed() {
		want = domain.StatusFailed
	}
	switch {
	case !h.cell.mayHitLog() || h.cell.kind == Stall && h.cell.endpoint.name == "log":
		if h.ended != nil || h.outcome.Status != want || h.outcome.Err != nil {
			return fmt.Errorf("the task ended as %s, %w, %w; want %s", h.outcome.Status, h.outcome.Err, h.ended, want)
		}
	case h.ended != nil:
		// The answer to a log is waited for as long as the host answers anything else: it may have a slow
		// sink. A connection that is half-open holds the result back, then, until somebody gives up.
		if lost := h.cell.kind == LoseUp || h.cell.kind == LoseDown; !lost || !errors.Is(h.ended, context.DeadlineExceeded) {
			return fmt.Errorf("the task has no outcome: %w", h.ended)
		}
	case !h.outcome.Succeeded() && h.outcome.Err == nil && h.outcome.Report() == nil:
		return fmt.Errorf("a log broke, and nobody tells: %+v", h.outcome)
	}
	return nil
}
