package httpserver

import (
	"net"
	"syscall"
)

// hungUpOf is wire.Conn.HungUp of a connection; nil where it can't be told.
func hungUpOf(conn net.Conn) func() bool {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return func() bool { return hungUp(raw) }
}
