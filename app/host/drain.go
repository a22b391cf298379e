package host

import (
	"context"
	"sync"
	"time"
)

// What is read only to be dropped: 8 MiB a second cost a hundredth of a core or two, and hold no task up
// for long that is about to end. A read that brings little costs about as much as one that brings 32 KiB:
// a guest picks the size of its chunks.
const (
	drainRate  = 8 << 20
	drainBurst = 1 << 20
	drainLeast = 32 << 10
)

// drain paces all of a guest's log bodies together, once what they bring is dropped: without it a guest
// could keep a core of its host busy for as long as it likes.
type drain struct {
	mu   sync.Mutex // guards what follows
	paid time.Time  // until when what was read so far takes at drainRate
}

// read notes that n bytes were read to be dropped at now, and tells how long to wait before more are: a
// long while now and then, since each wait costs, too.
func (d *drain) read(n int, now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paid.Before(now) {
		d.paid = now
	}
	d.paid = d.paid.Add(time.Duration(max(n, drainLeast)) * time.Second / drainRate)
	if ahead := d.paid.Sub(now); ahead >= drainBurst*time.Second/drainRate {
		return ahead
	}
	return 0
}

// dropped waits after n bytes of a log were read for nothing. An error is the end of the request or of the
// service: nobody reads on.
func (s *Service) dropped(ctx context.Context, n int) error {
	return s.pause(ctx, s.drain.read(n, time.Now()))
}
