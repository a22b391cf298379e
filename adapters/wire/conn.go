package wire

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

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
	// Detach takes the connection from its server: see Detach.
	Detach func(w http.ResponseWriter) (Detached, error)
}

// Detached is a connection that a handler has taken from its server: to hold it for less than the server can, or to
// have a body in another way. It is one goroutine's, but for Wake. The handler may return before it; Resume or
// Close must be called. The request's body and its ResponseWriter are not to be used any more.
type Detached interface {
	// ResponseWriter makes the request's answer, which goes out when it is flushed, or with Resume. What has
	// a body must have a Content-Length. With Connection: close it is the last one.
	http.ResponseWriter
	// Await waits for Wake. It returns an error where the guest hangs up before, or the server ends.
	Await() error
	// Wake ends Await, for good. Any goroutine may call it, once, and it doesn't block.
	Wake()
	// HungUp and Claim are those of Conn.
	HungUp() bool
	Claim() (release func())
	// Context ends with the server. The request's own ends with its handler.
	Context() context.Context
	// Read reads what comes behind the request's headers.
	Read(p []byte) (int, error)
	// Unread puts back what was read beyond the request's end. The caller must not change p.
	Unread(p []byte)
	// MoveTo has w take up to most bytes of that, without a copy of them in this process where both can do so.
	// It returns how many it was, with io.EOF where there were no more, and an error at the read deadline.
	MoveTo(w io.ReaderFrom, most int64) (int64, error)
	// SetReadDeadline is net.Conn's.
	SetReadDeadline(t time.Time) error
	// Resume sends what there is of the answer, and gives the connection back to the server for the next
	// request: the body of this one must have been read to its end, and no further. It doesn't wait.
	Resume()
	// Close hangs up. After Resume it does nothing.
	Close()
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

// Detach takes the connection from the server of the request that has this context. errors.ErrUnsupported is that it
// has none that lets it go, or that the guest doesn't expect it to go on.
func Detach(w http.ResponseWriter, r *http.Request) (Detached, error) {
	detach := connOf(r.Context()).Detach
	if detach == nil || !r.ProtoAtLeast(1, 1) || r.Close || r.Header.Get("Expect") != "" || r.Header.Get("Upgrade") != "" {
		return nil, errors.ErrUnsupported
	}
	return detach(w)
}
