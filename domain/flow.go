package domain

import (
	"errors"
	"fmt"
)

// ErrFlow is a peer that doesn't keep to a stream's flow control.
var ErrFlow = errors.New("broken flow control")

// Credit is what the sender of a stream may still send.
type Credit struct {
	left int64
	most int64
}

// NewCredit begins with what needs no grant. No receiver may let it come to more than most.
func NewCredit(initial, most int64) Credit { return Credit{left: initial, most: most} }

// Left is how many bytes may be sent now.
func (c *Credit) Left() int64 { return c.left }

// Spend takes up to n bytes of credit, and returns how many it took.
func (c *Credit) Spend(n int64) int64 {
	n = min(n, c.left)
	c.left -= n
	return n
}

// Refund gives back credit that was spent on bytes which then weren't sent.
func (c *Credit) Refund(n int64) { c.left += n }

// Grant adds what the receiver granted, for bytes that it consumed or ahead of any. ErrFlow where that
// is more than there may ever be.
func (c *Credit) Grant(n uint32) error {
	if c.left+int64(n) > c.most {
		return fmt.Errorf("%w: credit of %d on top of %d, the most is %d", ErrFlow, n, c.left, c.most)
	}
	c.left += int64(n)
	return nil
}

// Window is what the receiver of a stream has room for. What may be in flight, what is held and what has
// been consumed without being granted again are its size together, always.
type Window struct {
	size   int64
	flight int64 // granted, and not received
	owed   int64 // consumed, and not granted again
}

// NewWindow begins with what needs no grant.
func NewWindow(initial int64) Window { return Window{size: initial, flight: initial} }

// Size is how many bytes there is room for.
func (w *Window) Size() int64 { return w.size }

// Held is how many bytes were received, and not consumed.
func (w *Window) Held() int64 { return w.size - w.flight - w.owed }

// Receive notes bytes that came. ErrFlow where they were never granted.
func (w *Window) Receive(n int64) error {
	if n > w.flight {
		return fmt.Errorf("%w: %d bytes where %d were granted", ErrFlow, n, w.flight)
	}
	w.flight -= n
	return nil
}

// Consume notes bytes that were read, or dropped, and returns what to grant now. That is 0 for as long as
// there is more to merge: a quarter of the window at a time is often enough, since the sender has the
// rest.
func (w *Window) Consume(n int64) (grant int64) {
	w.owed += n
	if w.owed*4 < w.size {
		return 0
	}
	grant = w.owed
	w.owed = 0
	w.flight += grant
	return grant
}

// Grow makes the window larger, and returns what to grant: credit ahead.
func (w *Window) Grow(n int64) (grant int64) {
	w.size += n
	grant = n + w.owed
	w.owed = 0
	w.flight += grant
	return grant
}
