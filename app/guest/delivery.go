package guest

import (
	"context"
	"errors"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// delivery is what the delivering goroutine of a taskLog knows.
type delivery struct {
	*taskLog
	stream  ports.LogStream // nil where the next one is to be opened
	begun   bool            // it has taken something, which is lost if it breaks
	midline bool            // the log isn't at the beginning of a line
	outage  bool            // that the connection broke was told
	pause   backoff
}

// deliver sends what comes until the end, and then waits for the host's word.
func (l *taskLog) deliver() {
	defer l.cause(nil) // releases the context
	d := &delivery{taskLog: l}
	d.open() // at once: the host sees that there is a log, even if it stays empty
	for {
		block, note := l.next()
		switch {
		case block == nil:
			d.close()
			return
		case l.drop.Err() != nil:
			d.discard(len(block), note)
		case d.stream != nil || d.reopen():
			d.send(block, note)
		}
	}
}

func (d *delivery) open() {
	d.begun = false
	stream, err := d.host.OpenLog(d.drop)
	if err != nil {
		d.broke(err)
		return
	}
	d.stream = stream
}

// reopen waits, says hello again where that is due, and opens a new body.
func (d *delivery) reopen() bool {
	if !d.pause.wait(d.drop) || d.link.ready(d.drop) != nil {
		return false
	}
	d.open()
	return d.stream != nil
}

// send writes a block, or as much of it as goes. What went into a write that fails isn't sent again: it
// may be with the host, and must not be there twice.
func (d *delivery) send(block []byte, note bool) {
	if note && d.midline {
		if n, _ := d.write([]byte{'\n'}); n == 0 {
			return
		}
		d.midline = false
		if d.stream == nil {
			return
		}
	}
	n, err := d.write(block)
	if n > 0 {
		d.midline = block[n-1] != '\n'
		d.took(n, note)
	}
	if err == nil {
		d.pause.reset()
		d.outage = false
		d.sent = time.Now()
	}
}

// write writes to the stream, and gives it up after an error.
func (d *delivery) write(block []byte) (int, error) {
	d.setSending(true)
	n, err := d.stream.Write(block)
	d.setSending(false)
	d.begun = d.begun || n > 0
	d.mu.Lock()
	if err == nil {
		d.progress = time.Now()
	} else {
		d.lost += int64(n)
	}
	d.mu.Unlock()
	if err != nil {
		d.stream.Abort()
		d.stream = nil
		d.broke(err)
	}
	return n, err
}

func (d *delivery) setSending(sending bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sending = sending
}

// broke notes that a body broke. What the host refuses it will refuse again, but where it says that it
// is too busy.
func (d *delivery) broke(err error) {
	if d.drop.Err() != nil {
		d.failed(context.Cause(d.drop))
		return
	}
	if d.begun {
		d.failed(err)
	}
	if refusal, refused := errors.AsType[*domain.Error](err); refused && refusal.Code != domain.CodeTooManyRequests {
		d.log.Warn("the host refuses the log; the rest of it is dropped", "refusal", refusal)
		d.failed(err)
		d.cause(err)
		return
	}
	d.link.broke()
	if !d.outage {
		d.outage = true
		d.log.Warn("the log's connection broke; what comes next goes into a new one", "error", err)
	}
}

// discard drops a block, so that whoever made it doesn't wait.
func (d *delivery) discard(n int, note bool) {
	d.took(n, note)
	d.failed(context.Cause(d.drop))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unsent += int64(n)
}

// close ends the body, and waits for the host's word. An empty body that breaks has lost nothing: it is
// sent again.
func (d *delivery) close() {
	for d.drop.Err() == nil {
		switch {
		case d.stream == nil && d.incomplete():
			return // a new body would have nothing in it
		case d.stream == nil && !d.reopen():
			continue
		}
		d.setSending(true)
		err := d.stream.Close()
		d.setSending(false)
		d.stream.Abort()
		d.stream = nil
		if err == nil {
			return
		}
		d.broke(err)
	}
	d.failed(context.Cause(d.drop))
	if d.stream != nil {
		d.stream.Abort()
	}
}

// incomplete tells whether something of the log is lost already.
func (d *delivery) incomplete() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failure != nil
}
