package wire

import "context"

// Conn is what a server tells its handlers about the connection that a request came on. Any of it may be
// nil: then it isn't known.
type Conn struct {
	// HungUp tells, without waiting, whether the guest has hung up. net/http tells a moment late: what it
	// has been written by then is lost.
	HungUp func() bool
	// Claim tells the server that the host itself asked for what goes over the connection, or has a limit
	// on it, so that the server's own limit doesn't count it until released.
	Claim func() (release func())
	// Answers tells whether the server goes by the name in a request's Host header.
	Answers func(host string) bool
}

type connKey struct{}

// WithConn gives the requests of a connection what their server knows about it.
func WithConn(ctx context.Context, conn Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &conn)
}

// connOf is the connection of the request that has this context; without a server that tells, all is nil.
func connOf(ctx context.Context) *Conn {
	if conn, ok := ctx.Value(connKey{}).(*Conn); ok {
		return conn
	}
	return &Conn{}
}

// HungUp tells whether the guest whose request has this context is known to have hung up.
func HungUp(ctx context.Context) bool {
	if ctx.Err() != nil {
		return true
	}
	hungUp := connOf(ctx).HungUp
	return hungUp != nil && hungUp()
}

// Claim is Conn.Claim for the request that has this context. release may be called any number of times.
func Claim(ctx context.Context) (release func()) {
	if claim := connOf(ctx).Claim; claim != nil {
		return claim()
	}
	return func() {}
}

// Answers tells whether the server of the request that has this context goes by that name. One that doesn't
// say goes by any.
func Answers(ctx context.Context, host string) bool {
	answers := connOf(ctx).Answers
	return answers == nil || answers(host)
}
