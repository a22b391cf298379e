package hostclient

import (
	"net"
	"sync"
)

// connEnd tells that a connection has ended. net/http reads all the time, so it sees that at once, but tells
// nobody who is still writing a body: a log that is silent just then would lose what comes next to it.
type connEnd struct {
	once sync.Once
	over chan struct{}
}

func newConnEnd() *connEnd { return &connEnd{over: make(chan struct{})} }

// watch passes on what a Read returned.
func (e *connEnd) watch(n int, err error) (int, error) {
	if err != nil {
		e.once.Do(func() { close(e.over) })
	}
	return n, err
}

// ended is closed once nothing can be read any more.
func (e *connEnd) ended() <-chan struct{} { return e.over }

// tcpConn has all that a TCP connection has, sendfile too.
type tcpConn struct {
	*net.TCPConn
	*connEnd
}

func (c tcpConn) Read(p []byte) (int, error) { return c.watch(c.TCPConn.Read(p)) }

// anyConn is what else Options.Dial may have dialed.
type anyConn struct {
	net.Conn
	*connEnd
}

func (c anyConn) Read(p []byte) (int, error) { return c.watch(c.Conn.Read(p)) }
