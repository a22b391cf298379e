package domain

import "time"

// Presence tells whether a guest that was there has fallen silent: it has polled, and for Silence it
// has neither polled nor had any request open. A guest that never polled isn't lost, it is late.
type Presence struct {
	silence time.Duration
	polled  bool
	open    int
	last    time.Time
}

// NewPresence starts without a guest.
func NewPresence(silence time.Duration) *Presence { return &Presence{silence: silence} }

// Begin notes a request's beginning, End its end.
func (p *Presence) Begin(poll bool, now time.Time) {
	p.open++
	p.polled = p.polled || poll
	p.last = now
}

// End notes a request's end.
func (p *Presence) End(now time.Time) {
	p.open--
	p.last = now
}

// LostAt is when the guest is to be called lost if nothing comes before; ok is false as long as
// there is no such time: it never polled, or has a request open.
func (p *Presence) LostAt() (at time.Time, ok bool) {
	if !p.polled || p.open > 0 {
		return time.Time{}, false
	}
	return p.last.Add(p.silence), true
}

// Lost tells whether that time has come.
func (p *Presence) Lost(now time.Time) bool {
	at, ok := p.LostAt()
	return ok && !now.Before(at)
}

// Busy tells whether a request is open.
func (p *Presence) Busy() bool { return p.open > 0 }
