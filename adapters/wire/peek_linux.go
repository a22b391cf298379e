package wire

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp looks whether the peer's end has come, and takes nothing of what is there. It doesn't wait
// for whoever else reads: Control needs no lock.
//
// It sees the end behind what is still to be read, too. A guest that had sent a hundred polls at once, and
// then its end, was handed a hundred actions, of which it could answer none.
func hungUp(raw syscall.RawConn) bool {
	ended := false
	err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		ended = err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return ended || err != nil
}
