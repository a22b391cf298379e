package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interrupts are the signals that ask a run to end: the first ends its task, the second everything, at
// once.
type interrupts struct {
	first, second chan struct{} // closed when it came

	mu     sync.Mutex     // guards what follows
	signal syscall.Signal // the first; 0 is none
	count  int
}

var errInterrupted = errors.New("interrupted")

func newInterrupts() *interrupts {
	return &interrupts{first: make(chan struct{}), second: make(chan struct{})}
}

// catch has signals counted until release is called. Those that whoever started us wants ignored
// (nohup, a shell's background) stay so.
func (i *interrupts) catch() (release func()) {
	var wanted []os.Signal
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			wanted = append(wanted, s)
		}
	}
	signals := make(chan os.Signal, 2)
	if len(wanted) > 0 { // none would mean all
		signal.Notify(signals, wanted...)
	}
	ended := make(chan struct{})
	go func() { // ends with release, which waits for it
		defer close(ended)
		for s := range signals {
			i.add(s.(syscall.Signal))
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-ended
	}
}

// catchPipes makes a write to a closed standard output an error. Without it the Go runtime would end
// the program right there, and leave the machine behind. Ignoring the signal would do that too, and
// hand the disposition down to the task.
func catchPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

func (i *interrupts) add(s syscall.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.count++
	switch i.count {
	case 1:
		i.signal = s
		close(i.first)
	case 2:
		close(i.second)
	}
}

// came is the first signal that came, or 0.
func (i *interrupts) came() syscall.Signal {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.signal
}

// next is closed when one more comes.
func (i *interrupts) next() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.count == 0 {
		return i.first
	}
	return i.second
}

// until is a context that ends, with errInterrupted, when more signals have come. cancel releases it.
func until(more <-chan struct{}) (ctx context.Context, cancel func()) {
	ctx, end := context.WithCancelCause(context.Background())
	if isClosed(more) {
		end(errInterrupted)
	}
	go func() { // ends with ctx
		select {
		case <-more:
			end(errInterrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(nil) }
}

// signalName is a signal's name as in kill -l.
func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGHUP:
		return "SIGHUP"
	}
	return fmt.Sprintf("signal %d", int(s))
}
