package wsshell

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// eager reads from a socket without sleeping, for a moment. Waking a sleeping thread takes longer than a
// character takes to a guest and back.
type eager struct {
	raw syscall.RawConn
	buf []byte
	n   int
	err error
}

// newEager is nil for what is no socket.
func newEager(conn net.Conn) *eager {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return &eager{raw: raw}
}

// read looks for something to read, for so long. ok is false where nothing came.
func (e *eager) read(p []byte, patience time.Duration) (n int, err error, ok bool) {
	e.buf = p
	defer func() { e.buf = nil }()
	for start := time.Now(); time.Since(start) < patience; {
		if err := e.raw.Read(e.try); err != nil { // a deadline, or it was closed
			return 0, err, true
		}
		switch {
		case errors.Is(e.err, unix.EAGAIN), errors.Is(e.err, unix.EINTR):
			runtime.Gosched() // whoever was given what came before
		case e.err != nil:
			return 0, e.err, true
		case e.n == 0:
			return 0, io.EOF, true
		default:
			return e.n, nil, true
		}
	}
	return 0, nil, false
}

// try is RawConn.Read's function: true has it return.
func (e *eager) try(fd uintptr) bool {
	e.n, e.err = unix.Read(int(fd), e.buf)
	return true
}
