//go:build unix

package listenmachine

import "syscall"

// privately gives a socket its mode before it is bound, where the system can (Linux): between bind and
// chmod, anybody could connect.
func privately(_, _ string, conn syscall.RawConn) error {
	return conn.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
}
