package domain

import (
	"errors"
	"fmt"
)

// LogBook keeps the account of a task's log: how much came, how much of it was cut at the limit, and
// whether every body that was begun has ended as it should. The bytes themselves go elsewhere.
type LogBook struct {
	limit  int64 // bytes; 0 is none
	bytes  int64
	cut    int64
	open   int
	broken []brokenLog
	others int // reasons beyond those that are kept
}

// brokenLog is a reason for which the log is not whole, and how often it came.
type brokenLog struct {
	err   error
	times int
}

// maxBroken is how many different reasons of broken log bodies are kept.
const maxBroken = 8

// NewLogBook allows limit bytes; 0 allows any number.
func NewLogBook(limit int64) *LogBook { return &LogBook{limit: limit} }

// Begin notes that a log body has begun.
func (l *LogBook) Begin() { l.open++ }

// Take accounts for n bytes that came, and tells how many of them still fit.
func (l *LogBook) Take(n int) (keep int) {
	keep = n
	if l.limit > 0 {
		keep = int(min(int64(n), max(l.limit-l.bytes, 0)))
	}
	l.bytes += int64(keep)
	l.cut += int64(n - keep)
	return keep
}

// Unwrite takes n bytes back that Take let through and that the sink did not take after all.
func (l *LogBook) Unwrite(n int) { l.bytes -= int64(n) }

// End notes that a log body has ended: err is nil if it was whole and all of it was written.
func (l *LogBook) End(err error) {
	l.open--
	l.Fail(err)
}

// Fail notes a reason for which the log is not whole.
func (l *LogBook) Fail(err error) {
	if err == nil {
		return
	}
	for i := range l.broken {
		if l.broken[i].err.Error() == err.Error() {
			l.broken[i].times++
			return
		}
	}
	if len(l.broken) == maxBroken {
		l.others++
		return
	}
	l.broken = append(l.broken, brokenLog{err: err, times: 1})
}

// reasons tells all that came, each once.
func (l *LogBook) reasons() error {
	var errs []error
	for _, b := range l.broken {
		if b.times > 1 {
			b.err = fmt.Errorf("%w (%d times)", b.err, b.times)
		}
		errs = append(errs, b.err)
	}
	if l.others > 0 {
		errs = append(errs, fmt.Errorf("and %d more reasons", l.others))
	}
	return errors.Join(errs...)
}

// Open is how many log bodies are being received.
func (l *LogBook) Open() int { return l.open }

// Summary is the account as it stands. Bodies still open count as incomplete.
func (l *LogBook) Summary() LogSummary {
	s := LogSummary{Bytes: l.bytes, Cut: l.cut, Broken: l.reasons()}
	if l.open > 0 {
		s.Broken = errors.Join(s.Broken, fmt.Errorf("%d log bodies had not ended when the log was closed", l.open))
	}
	return s
}

// LogSummary is what became of a task's log.
type LogSummary struct {
	Bytes  int64 // written to the sink
	Cut    int64 // came after the limit on log bytes was reached, and were dropped
	Broken error // why the log is not whole, other than by the limit: a connection or the sink failed
}

// Complete tells whether the sink got every byte that the guest sent.
func (s LogSummary) Complete() bool { return s.Broken == nil && s.Cut == 0 }
