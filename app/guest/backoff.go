package guest

import (
	"context"
	"time"
)

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// backoff makes the pauses between tries: each twice the one before, up to 5 s. There is one guest to a
// host, so nothing is won by making them random.
type backoff struct {
	next time.Duration
}

// reset starts over, after a success.
func (b *backoff) reset() { b.next = 0 }

// wait waits for the next pause, and returns false if ctx ended first.
func (b *backoff) wait(ctx context.Context) bool {
	pause := max(b.next, firstPause)
	b.next = min(2*pause, lastPause)
	return sleep(ctx, pause)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
