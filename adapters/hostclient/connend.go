package hostclient

import (
	"net"
	"sync"

	"github.com/hexworker/metaservice/adapters/wire"
)

// connEnd tells that a connection has ended. net/http reads all the time, so it sees that at once, but tells
// nobody who is still writing a body: a log that is silent just then would lose what comes next to it.
type connEnd struct {
	once   sync.Once
	over   chan struct{} // closed once nothing can be read any more
	hungUp func() bool   // looks whether it has ended, read or not; nil where that can't be told
}

func newConnEnd(conn net.Conn) *connEnd {
	return &connEnd{over: make(chan struct{}), hungUp: wire.HungUpFunc(conn)}
}

// watch passes on what a Read returned.
func (e *connEnd) watch(n int, err error) (int, error) {
	if err != nil {
		e.once.Do(func() { close(e.over) })
	}
	return n, err
}

// end is how a request finds it in its connection.
func (e *connEnd) end() *connEnd { return e }

// hasEnded tells that before whoever reads was told: what is written then is lost, though Write doesn't say so.
func (e *connEnd) hasEnded() bool {
	select {
	case <-e.over:
		return true
	default:
		return e.hungUp != nil && e.hungUp()
	}
}

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
