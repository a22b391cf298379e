package wire

import (
	"net"
	"syscall"
)

// HungUpFunc makes what tells at once, and without taking what is there, whether the other end of a connection
// has ended it: Conn.HungUp. nil where that can't be told.
func HungUpFunc(conn net.Conn) func() bool {
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
