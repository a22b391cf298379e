package proxies

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
)

// writer is the server's ResponseWriter, which sees to it that a connection that is hijacked ends with the
// task, even where the proxy's handler has returned long before.
type writer struct {
	http.ResponseWriter
	over  <-chan struct{}
	end   func()                  // ends the context of the request
	claim func() (release func()) // keeps its connection in its server's count, once that has let go of it
}

// Unwrap is what http.ResponseController looks for.
func (w writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher.
func (w writer) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController looks for.
func (w writer) FlushError() error { return http.NewResponseController(w.ResponseWriter).Flush() }

// ReadFrom implements io.ReaderFrom: a file goes out by sendfile.
func (w writer) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// Hijack implements http.Hijacker.
func (w writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	release := w.claim()
	inner, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		release()
		return nil, nil, err
	}
	c := &conn{Conn: inner, closed: make(chan struct{}), release: release}
	go func() { // ends with the connection, or the task
		select {
		case <-w.over:
			w.end() // first: who sees the connection's end can tell why
			_ = c.Close()
		case <-c.closed:
		}
	}()
	if half, ok := inner.(halfCloser); ok {
		return halfConn{c, half}, buffered, nil
	}
	return c, buffered, nil
}

// conn is a hijacked connection that tells when it is closed.
type conn struct {
	net.Conn
	once    sync.Once
	closed  chan struct{}
	release func() // any number of times
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	err := c.Conn.Close()
	c.release()
	return err
}

// ReadFrom implements io.ReaderFrom: between sockets nothing is copied.
func (c *conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// WriteTo implements io.WriterTo, likewise.
func (c *conn) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, c.Conn) }

// halfCloser is a connection either half of which can be closed.
type halfCloser interface{ CloseWrite() error }

type halfConn struct {
	*conn
	halfCloser
}
