//go:build unix && !linux

package wire

import (
	"errors"
	"syscall"
)

// hungUp looks whether the peer's end has come, and takes nothing of what is there. It doesn't wait
// for whoever else reads: Control needs no lock.
func hungUp(raw syscall.RawConn) bool {
	ended := false
	err := raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		ended = n == 0 && err == nil || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	})
	return ended || err != nil
}
