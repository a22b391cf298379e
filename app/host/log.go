package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// Log implements ports.GuestAPI.
func (s *Service) Log(ctx context.Context, body io.Reader) error {
	defer s.request(false)()
	s.mu.Lock()
	if s.bookClosed {
		s.mu.Unlock()
		return fmt.Errorf("%w: its log is closed", domain.ErrConflict)
	}
	if s.book.Open() >= s.limits.Logs {
		s.mu.Unlock()
		return fmt.Errorf("%w: %d log bodies are open, which the limit Logs allows", domain.ErrTooMany, s.limits.Logs)
	}
	s.book.Begin()
	s.mu.Unlock()
	err := s.copyLog(ctx, body)
	s.logEnded(err)
	return err
}

func (s *Service) logEnded(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.brokenLogs.again() {
		s.log.Warn("a log body is incomplete", "error", err, "time", s.brokenLogs)
	}
	s.book.End(err)
	if s.book.Open() == 0 && s.logsEnded != nil {
		close(s.logsEnded)
		s.logsEnded = nil
	}
}

// copyLog writes body to the sink as it comes. It reads it to its end even where the sink failed or
// the limit is reached, if not as fast as it comes: the guest's task must not hang on a host's full disk.
func (s *Service) copyLog(ctx context.Context, body io.Reader) error {
	buffer := logBuffer{reads: &s.logReads, quiet: make([]byte, logQuiet)}
	defer buffer.release()
	var sinkErr error
	for {
		buf := buffer.next()
		n, err := body.Read(buf)
		if n > 0 {
			kept, werr := s.writeLog(ctx, buf[:n])
			if werr != nil && sinkErr == nil {
				sinkErr = werr
			}
			switch {
			case err != nil:
			case kept < n:
				err = s.dropped(ctx, n-kept)
			case n < logPiece && n < len(buf): // what fills it is followed by more
				err = s.pieceTaken(ctx)
			}
		}
		switch {
		case err == io.EOF:
			return sinkErr
		case err != nil && sinkErr == nil:
			return fmt.Errorf("the log's connection broke off: %w", err)
		case err != nil:
			return sinkErr
		}
		buffer.more = n == len(buf)
	}
}

// writeLog writes one chunk, whole, when it is its turn, and tells how much of it was to be kept.
func (s *Service) writeLog(ctx context.Context, chunk []byte) (kept int, err error) {
	if err := s.takeSinkSlot(ctx); err != nil {
		return 0, err
	}
	defer func() { s.sinkSlot <- struct{}{} }()

	s.mu.Lock()
	if s.bookClosed {
		s.mu.Unlock()
		return 0, fmt.Errorf("%w: its log is closed", domain.ErrConflict)
	}
	failed := s.sinkErr
	keep := 0
	if failed == nil {
		keep = s.book.Take(len(chunk))
	}
	s.mu.Unlock()
	if failed != nil || keep == 0 {
		return 0, failed
	}
	n, err := s.sinkWrite(chunk[:keep])
	if err == nil && n < keep {
		err = io.ErrShortWrite
	}
	if err == nil {
		return keep, nil
	}
	err = fmt.Errorf("%w: %w", domain.ErrLog, err)
	s.mu.Lock()
	s.sinkErr = err
	s.book.Unwrite(keep - max(n, 0))
	s.mu.Unlock()
	return 0, err
}

// sinkWrite takes a sink that panics for one that fails: net/http would swallow the panic, and leave a log
// that seems to be open still.
func (s *Service) sinkWrite(chunk []byte) (n int, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			n, err = 0, fmt.Errorf("the log sink panicked: %v", cause)
			s.log.Error("the log sink panicked", "panic", cause, "stack", string(debug.Stack()))
		}
	}()
	return s.sink.Write(chunk)
}

// takeSinkSlot waits for the turn to write to the sink. What has come is written even where its request
// has ended since: net/http ends the context of a request that broke off together with its last Read,
// and of one that is whole as soon as the guest hangs up. Only a sink that blocks can't be waited for.
func (s *Service) takeSinkSlot(ctx context.Context) error {
	select {
	case <-s.sinkSlot:
		return nil
	case <-s.closing.Done():
		return context.Cause(s.closing)
	case <-ctx.Done():
	}
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-s.sinkSlot:
		return nil
	case <-s.closing.Done():
		return context.Cause(s.closing)
	case <-grace.C:
		return context.Cause(ctx)
	}
}

// Resolve implements ports.GuestAPI.
func (s *Service) Resolve(_ context.Context, result domain.Result) error {
	defer s.request(false)()
	if err := result.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first, err := s.resolution.Resolve(result)
	if first {
		s.endTask()
		s.spawn(s.settle)
	}
	return err
}

// endTask ends what serves the task alone; s.mu must be held.
func (s *Service) endTask() { shut(s.over) }

// settle waits for the log to end, and then tells the outcome, once. It runs on its own goroutine:
// the guest has its answer at once, whatever the callback does.
func (s *Service) settle() {
	summary := s.closeLog(s.limits.LogEnd)
	s.mu.Lock()
	result, _ := s.resolution.Result()
	s.outcome = domain.Resolved(result, summary)
	if s.bootID != "" && !s.executed { // version 1 has no way to tell
		s.outcome.Status = domain.StatusFailed
		s.outcome.Err = errors.Join(domain.ErrForeignResult, s.outcome.Err)
	}
	outcome := s.outcome
	s.mu.Unlock()
	close(s.settled)
	s.log.Info("task resolved", "status", outcome.Status.String(), "log", summary.Bytes, "complete", summary.Complete())
	if s.resolved != nil {
		s.resolved(outcome)
	}
}

// CloseLog waits for the log bodies that are open, for a moment, and closes the log: the sink is not
// written to any more. It returns the log's account. Only a sink that blocks may still be in a Write. It
// is for a task that has ended without a result: what served it is over.
func (s *Service) CloseLog() domain.LogSummary { return s.giveUp(closeGrace) }

func (s *Service) giveUp(patience time.Duration) domain.LogSummary {
	s.mu.Lock()
	s.endTask()
	s.mu.Unlock()
	return s.closeLog(patience)
}

func (s *Service) closeLog(patience time.Duration) domain.LogSummary {
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-s.whenLogsEnded():
		case <-timer.C:
		case <-s.closing.Done():
		}
	}
	slow := time.NewTimer(closeGrace)
	defer slow.Stop()
	var blocked error
	select {
	case <-s.sinkSlot: // nobody is writing
		defer func() { s.sinkSlot <- struct{}{} }()
	case <-slow.C:
		blocked = errors.New("the log sink still blocks in a write")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bookClosed = true
	s.book.Fail(blocked)
	summary := s.book.Summary()
	if summary.Cut > 0 {
		s.log.Warn("the log was cut: the guest wrote more than the limit LogBytes allows", "limit", s.limits.LogBytes, "cut", summary.Cut)
	}
	return summary
}

func (s *Service) whenLogsEnded() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logsEnded == nil {
		s.logsEnded = make(chan struct{})
	}
	ended := s.logsEnded
	if s.book.Open() == 0 {
		close(s.logsEnded)
		s.logsEnded = nil
	}
	return ended
}
