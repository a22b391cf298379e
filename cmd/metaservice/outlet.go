package main

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// hurryPatience is how long a write may take that nobody reads, once the run is to end.
const hurryPatience = 5 * time.Second

var errUnread = errors.New("nobody reads it")

// outlet is a standard stream. A write to one blocks for as long as its reader likes (a pager, a
// terminal that was stopped), which holds the task back and is fine, until a signal or the task's
// time-out wants the run to end: then it may take hurryPatience, and after one signal more no time at
// all. An outlet that was given up stays so.
type outlet struct {
	to            io.Writer
	first, second <-chan struct{} // closed by signals
	raw           atomic.Bool     // it is a terminal that is raw now: a new line needs a carriage return

	late    chan struct{} // closed by hurry
	hurry   func()        // once
	over    chan struct{} // closed by giveUp
	giveUp  func()        // once
	writing sync.Mutex    // guards what follows, and is held for a whole write
	gone    bool
	buffer  []byte
}

func newOutlet(to io.Writer, signals *interrupts) *outlet {
	o := &outlet{to: to, first: signals.first, second: signals.second, late: make(chan struct{}), over: make(chan struct{})}
	o.hurry = sync.OnceFunc(func() { close(o.late) })
	o.giveUp = sync.OnceFunc(func() { close(o.over) })
	return o
}

// Write implements io.Writer.
func (o *outlet) Write(p []byte) (int, error) {
	o.writing.Lock()
	defer o.writing.Unlock()
	if o.gone {
		return 0, errUnread
	}
	type written struct {
		n   int
		err error
	}
	done := make(chan written, 1)
	o.buffer = append(o.buffer[:0], p...) // p is the caller's again once we give up
	buffer := o.buffer
	if o.raw.Load() {
		buffer = bytes.ReplaceAll(buffer, []byte("\n"), []byte("\r\n"))
	}
	go func() { // ends with the write, at the latest with the process
		n, err := o.to.Write(buffer)
		done <- written{n, err}
	}()
	select {
	case w := <-done:
		return min(w.n, len(p)), w.err
	case <-o.first:
	case <-o.late:
	case <-o.over:
	}
	patience := time.NewTimer(hurryPatience)
	defer patience.Stop()
	select {
	case w := <-done:
		return min(w.n, len(p)), w.err
	case <-patience.C:
	case <-o.second:
	case <-o.over:
	}
	select {
	case w := <-done: // it has just ended
		return min(w.n, len(p)), w.err
	default:
	}
	o.gone = true
	return 0, errUnread
}
