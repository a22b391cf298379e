package domain

import "time"

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
	quota := int64(float64(floor) * window.Seconds())
	return &Pace{window: window, quota: max(quota, 1), start: now}
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
