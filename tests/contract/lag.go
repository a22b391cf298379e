package contract

import (
	"sync"
	"sync/atomic"
	"time"
)

// Lag watches how late timers are: a machine that is so busy, or that stood still, is nobody's fault.
type Lag struct {
	most  atomic.Int64
	stop  func()
	ended chan struct{}
}

// WatchLag begins to watch. Stop it.
func WatchLag() *Lag {
	const every = 20 * time.Millisecond
	over := make(chan struct{})
	l := &Lag{stop: sync.OnceFunc(func() { close(over) }), ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		for {
			begun, ended := time.Now(), false
			select {
			case <-over:
				ended = true // and it may have been late at the same time
			case <-time.After(every):
			}
			l.most.Store(max(l.most.Load(), int64(time.Since(begun)-every)))
			if ended {
				return
			}
		}
	}()
	return l
}

// Most is the latest that a timer has been.
func (l *Lag) Most() time.Duration { return time.Duration(l.most.Load()) }

// Allowed is what a promise of d may take on this machine.
func (l *Lag) Allowed(d time.Duration) time.Duration { return d + 10*l.Most() }

// Stop ends it, and may be called more than once.
func (l *Lag) Stop() {
	l.stop()
	<-l.ended
}
