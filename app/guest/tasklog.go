package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hexworker/metaservice/ports"
)

const (
	// logBuffer holds the task's output while the host is away; then the task waits.
	logBuffer = 1 << 20
	// logBlock is how much is written at a time.
	logBlock = 112 << 10
	// logGather is for how long less than a block is gathered, if the last one has only just gone out.
	// Output that comes in small pieces one after the other would keep two cores busy with handing each
	// of them on; nobody sees a delay as short as this.
	logGather = 500 * time.Microsecond
	// LogPatience is how long a log may stand still once the task's command has ended: because the host
	// doesn't take a new one, or because it neither takes more nor answers anything else.
	LogPatience = 60 * time.Second
)

// taskLog brings the task's output to the host. One goroutine of it delivers; another, if there is a
// process, reads. When the log's connection breaks, what was on its way is lost (version 1 has no words
// to ask how much), the host knows that, and the rest goes on in a new body. When the host refuses the
// log, or isn't back in time, the rest is dropped, so that the task doesn't wait for ever.
type taskLog struct {
	host ports.Host
	link *link
	log  *slog.Logger

	ring  *ring
	drop  context.Context // ends when the rest is to be dropped
	cause context.CancelCauseFunc
	done  chan struct{} // closed when all is delivered or dropped
	pumps sync.WaitGroup
	sent  time.Time // when the last block went out; the delivering goroutine's own

	mu       sync.Mutex
	notes    []string
	ended    bool      // nothing more will come
	sending  bool      // a write or a close is with the host
	progress time.Time // when the host last took something
	lost     int64     // bytes in the writes with which connections broke; those before may be lost, too
	unsent   int64     // bytes that were dropped
	cut      error     // why the output isn't all that the tree wrote
	failure  error     // the first reason for which the log isn't whole
}

var errLogStood = fmt.Errorf("the host took nothing for %s", LogPatience)

// newTaskLog opens the log.
func newTaskLog(host ports.Host, link *link, log *slog.Logger) *taskLog {
	l := &taskLog{host: host, link: link, log: log, ring: newRing(logBuffer), done: make(chan struct{})}
	l.drop, l.cause = context.WithCancelCause(context.Background())
	go func() {
		defer close(l.done)
		l.deliver()
	}()
	return l
}

// pump reads a process's output to its end, which then is the log's.
func (l *taskLog) pump(output io.Reader) {
	l.pumps.Go(func() {
		defer l.end()
		last := byte('\n')
		for {
			room := l.ring.room()
			n, err := output.Read(room)
			if n > 0 {
				last = room[n-1]
			}
			l.ring.put(n)
			if err == io.EOF {
				return
			}
			if errors.Is(err, ports.ErrOutputCut) {
				l.cutHere(err, last != '\n')
				return
			}
			if err != nil {
				l.failed(fmt.Errorf("the output can't be read: %w", err))
				return
			}
		}
	})
}

// cutHere puts a line of ours where the output was cut, after all of it. Only the reading goroutine may.
func (l *taskLog) cutHere(why error, midline bool) {
	l.mu.Lock()
	l.cut = why
	l.mu.Unlock()
	text := line(why.Error())
	if midline {
		text = "\n" + text
	}
	for text != "" {
		n := copy(l.ring.room(), text)
		l.ring.put(n)
		text = text[n:]
	}
}

// wasCut is why the output ended before the tree had written all; nil is that it didn't. It is known when
// the log was awaited.
func (l *taskLog) wasCut() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// note adds a line of ours, unless the log has ended.
func (l *taskLog) note(text string) {
	l.mu.Lock()
	if !l.ended {
		l.notes = append(l.notes, line(text))
	}
	l.mu.Unlock()
	signal(l.ring.filled)
}

// end tells that nothing more will come.
func (l *taskLog) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	signal(l.ring.filled)
}

// await waits until the host has said that it has the log, and its end: for LogPatience at most while
// nothing moves, and until stop. The error is why the log isn't whole.
func (l *taskLog) await(stop context.Context) error {
	exited := time.Now()
	timer := time.NewTimer(LogPatience)
	defer timer.Stop()
	for waiting := true; waiting; {
		select {
		case <-l.done:
			waiting = false
		case <-stop.Done():
			l.cause(errors.New("the guest ended"))
			<-l.done
			waiting = false
		case <-timer.C:
			if rest := time.Until(l.deadline(exited)); rest > 0 {
				timer.Reset(rest)
			} else {
				l.cause(errLogStood) // and on to the end of the output
			}
		}
	}
	l.pumps.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost+l.unsent > 0 {
		l.log.Warn("part of the log is missing", "lostOnTheWay", fmt.Sprintf("at least %d", l.lost), "dropped", l.unsent)
	}
	return l.failure
}

// deadline is when the log has stood still for too long. A host that takes nothing but answers polls is
// a slow one, and waited for: its own caller decides. One that doesn't even take a new log is not.
func (l *taskLog) deadline(exited time.Time) time.Time {
	answered := l.link.lastAnswer()
	l.mu.Lock()
	defer l.mu.Unlock()
	latest := exited
	if l.progress.After(latest) {
		latest = l.progress
	}
	if l.sending && answered.After(latest) {
		latest = answered
	}
	return latest.Add(LogPatience)
}

// failed notes why the log isn't whole.
func (l *taskLog) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil {
		l.failure = err
	}
}

// next is what is to be sent next: a line of ours, or output. It waits, and returns nothing at the end.
func (l *taskLog) next() (block []byte, note bool) {
	for {
		l.mu.Lock()
		ended := l.ended
		if len(l.notes) > 0 {
			note := l.notes[0]
			l.mu.Unlock()
			return []byte(note), true
		}
		l.mu.Unlock()
		held := l.ring.held()
		if len(held) > 0 && len(held) < logBlock && !ended && time.Since(l.sent) < logGather {
			l.gather()
			held = l.ring.held()
		}
		if len(held) > 0 {
			return held[:min(len(held), logBlock)], false
		}
		if ended {
			return nil, false
		}
		<-l.ring.filled
	}
}

// gather waits for a block to come together, or for as long as nobody notices.
func (l *taskLog) gather() {
	timer := time.NewTimer(logGather)
	defer timer.Stop()
	select {
	case <-l.ring.plenty:
	case <-timer.C:
	case <-l.drop.Done():
	}
}

// took removes what was sent, or dropped, from what is next.
func (l *taskLog) took(n int, note bool) {
	if !note {
		l.ring.take(n)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.notes[0] = l.notes[0][n:]; l.notes[0] == "" {
		l.notes = l.notes[1:]
	}
}
