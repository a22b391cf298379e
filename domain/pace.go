package domain

import (
	"math"
	"time"
)

// Pace is the least that a sender must do to be kept waiting for: Floor bytes a second, over each
// Window. It covers the silent and the one that drips with one deadline: the end of the window, which
// moves on only once enough has come.
type Pace struct {
	window time.Duration
	quota  int64
	start  time.Time
	got    int64
}

// NewPace begins a first window at now. The floor is in bytes a second; where it is zero or less, any
// byte at all starts a new window, so that only silence counts.
func NewPace(window time.Duration, floor int64, now time.Time) *Pace {
	quota := int64(math.MaxInt64)
	if q := float64(floor) * window.Seconds(); q < math.MaxInt64 { // else it wouldn't fit, and might come out negative
		quota = max(int64(q), 1)
	}
	return &Pace{window: window, quota: quota, start: now}
}

// Got notes n bytes that came at now.
func (p *Pace) Got(n int, now time.Time) {
	p.got += int64(n)
	if p.got >= p.quota {
		p.start, p.got = now, 0
	}
}

// Deadline is when the sender has been too slow, if no more comes.
func (p *Pace) Deadline() time.Time { return p.start.Add(p.window) }

// TooSlow tells whether it has been.
func (p *Pace) TooSlow(now time.Time) bool { return !now.Before(p.Deadline()) }

// Shift moves the window on by time that the receiver itself took: a slow disk is not the sender's
// fault.
func (p *Pace) Shift(d time.Duration) { p.start = p.start.Add(d) }
