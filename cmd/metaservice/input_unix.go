//go:build unix

package main

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// stoppable reads a file until stop. What has not been read then stays there, for who reads it next.
func stoppable(file *os.File) (input io.Reader, stop func()) {
	wake, stopped, err := os.Pipe()
	if err != nil {
		return file, func() {}
	}
	s := &patient{file: file, fd: int32(file.Fd()), wake: wake}
	return s, sync.OnceFunc(func() { stopped.Close() })
}

// patient reads a file when there is something to read. One goroutine reads.
type patient struct {
	file *os.File
	fd   int32
	wake *os.File // readable once it is to stop
}

// Read implements io.Reader.
func (s *patient) Read(p []byte) (int, error) {
	for {
		fds := []unix.PollFd{{Fd: s.fd, Events: unix.POLLIN}, {Fd: int32(s.wake.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
		case err == nil && fds[1].Revents != 0:
			s.wake.Close()
			return 0, errStopped
		default: // there is something; or it can't be told, as on some systems of terminals
			return s.file.Read(p)
		}
	}
}
