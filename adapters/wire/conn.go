package wire

import "context"

type hungUpKey struct{}

// WithHungUp gives the requests of a connection a way to ask, without waiting, whether the guest has
// hung up. net/http tells a moment late: what it has been written by then is lost.
func WithHungUp(ctx context.Context, hungUp func() bool) context.Context {
	return context.WithValue(ctx, hungUpKey{}, hungUp)
}

// HungUp tells whether the guest whose request has this context is known to have hung up.
func HungUp(ctx context.Context) bool {
	if ctx.Err() != nil {
		return true
	}
	hungUp, ok := ctx.Value(hungUpKey{}).(func() bool)
	return ok && hungUp()
}
