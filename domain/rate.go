package domain

import "time"

// Rate bounds how often something may happen: so many times a second, and so many times at once after a
// rest. It is a token bucket, kept as the one moment at which it is full again.
type Rate struct {
	each  time.Duration // that one token takes to come back
	burst time.Duration // that an empty bucket takes to fill
	full  time.Time
}

// NewRate begins with a full bucket. Less than 1 is 1.
func NewRate(perSecond, burst int) *Rate {
	each := max(time.Second/time.Duration(max(perSecond, 1)), 1)
	most := time.Duration(1<<63-1) / each
	return &Rate{each: each, burst: each * min(time.Duration(max(burst, 1)), most)}
}

// Take takes a token, if there is one at now.
func (r *Rate) Take(now time.Time) bool {
	_, ok := r.Reserve(now, 0)
	return ok
}

// Wait is how long there is none, if nothing else happens.
func (r *Rate) Wait(now time.Time) time.Duration {
	if !r.full.After(now) { // a zero moment is farther away than a Duration can tell
		return 0
	}
	return max(r.full.Sub(now)-(r.burst-r.each), 0)
}

// Reserve takes a token that is there at now, or will be within most, and tells how long until it is. Whoever
// reserves comes before all who ask later. False means that nothing was taken.
func (r *Rate) Reserve(now time.Time, most time.Duration) (wait time.Duration, ok bool) {
	if wait = r.Wait(now); wait > most {
		return 0, false
	}
	if r.full.Before(now) {
		r.full = now
	}
	r.full = r.full.Add(r.each)
	return wait, true
}

// Give gives a token back that was taken: what it was for doesn't count.
func (r *Rate) Give() { r.full = r.full.Add(-r.each) }
