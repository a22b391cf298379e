package hostclient

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"
)

// errUploadOver is what net/http gets when it asks for more of a body that it has closed.
var errUploadOver = errors.New("the request is over")

// lateAnswer is for how long a body that can't be written any more waits for an answer: a host that
// refuses a body answers and closes, and net/http forgets an answer that comes after the error.
const lateAnswer = 250 * time.Millisecond

// upload follows what net/http does with a body. It may go on with one after RoundTrip has returned,
// while what the body reads from belongs to the caller again; so whoever sends one waits on idle.
type upload struct {
	ctx      context.Context
	answered chan struct{} // closed when RoundTrip has returned
	idle     chan struct{} // closed when net/http is done with the body

	mu      sync.Mutex
	started bool
	active  int
	closed  bool
	failed  bool
}

func newUpload(ctx context.Context) *upload {
	return &upload{ctx: ctx, answered: make(chan struct{}), idle: make(chan struct{})}
}

// use runs one piece of work on the body.
func (u *upload) use(work func() error) error {
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return errUploadOver
	}
	u.started = true
	u.active++
	u.mu.Unlock()

	err := work()

	u.mu.Lock()
	defer u.mu.Unlock()
	u.active--
	u.failed = u.failed || err != nil && err != io.EOF
	if u.closed && u.active == 0 {
		close(u.idle)
	}
	return err
}

// awaitAnswer gives the answer to a body that could not be written a moment to arrive.
func (u *upload) awaitAnswer() {
	timer := time.NewTimer(lateAnswer)
	defer timer.Stop()
	select {
	case <-u.answered:
	case <-u.ctx.Done():
	case <-timer.C:
	}
}

// Close is net/http's, maybe from a goroutine of its own, maybe more than once.
func (u *upload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil
	}
	u.closed = true
	if u.active == 0 {
		close(u.idle)
	}
	return nil
}

// reopen lets net/http use a body again of which nothing was read.
func (u *upload) reopen() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.started {
		return errors.New("part of the body has been sent")
	}
	if u.closed {
		u.closed, u.idle = false, make(chan struct{})
	}
	return nil
}

// wait waits until net/http is done with the body. RoundTrip must have returned.
func (u *upload) wait() {
	u.mu.Lock()
	idle := u.idle
	u.mu.Unlock()
	<-idle
}

// streamBody is a body that writes itself, in blocks of its own choice, and of which nobody knows the
// length. net/http writes each block as a chunk, and flushes it.
type streamBody struct {
	*upload
	write func(w io.Writer) error
}

// WriteTo is what net/http calls for a body that has it.
func (b streamBody) WriteTo(w io.Writer) (int64, error) {
	counter := &countingWriter{w: w}
	err := b.use(func() error { return b.write(counter) })
	if counter.failed {
		b.awaitAnswer()
	}
	return counter.n, err
}

// Read completes io.Reader. WriteTo is used in its place.
func (b streamBody) Read([]byte) (int, error) {
	return 0, errors.New("this body is read by WriteTo alone")
}

type countingWriter struct {
	w      io.Writer
	n      int64
	failed bool
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.failed = c.failed || err != nil
	return n, err
}

// seekableConn is a file from which sendfile can read.
type seekableConn interface {
	io.ReadSeeker
	syscall.Conn
}

// errShrunk breaks the connection, so that the host never takes part of a file for the whole.
var errShrunk = errors.New("the file became shorter while it was sent")

// readBody is a body of known length, whatever becomes of what it reads.
type readBody struct {
	*upload
	r    io.Reader
	left int64
}

func (b *readBody) Read(p []byte) (n int, err error) {
	err = b.use(func() error {
		if b.left <= 0 {
			return io.EOF
		}
		n, err = b.r.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		if err == io.EOF && b.left > 0 {
			err = errShrunk
		}
		return err
	})
	return n, err
}

// fileBody is a readBody on which net/http uses sendfile: it hands what it finds below io.LimitReader
// to the connection, which looks for SyscallConn.
type fileBody struct {
	*upload
	file seekableConn
	end  int64 // where in the file the body ends, even if the file goes on
}

// Read reads to the end of the body, which it must find by the file's own position: sendfile moves
// that without a word. net/http asks once more after the last byte, to see that there is none.
func (b fileBody) Read(p []byte) (n int, err error) {
	err = b.use(func() error {
		at, err := b.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if at >= b.end {
			return io.EOF
		}
		n, err = b.file.Read(p[:min(int64(len(p)), b.end-at)])
		if err == io.EOF {
			err = errShrunk
		}
		return err
	})
	return n, err
}

// SyscallConn is the file's, followed.
func (b fileBody) SyscallConn() (syscall.RawConn, error) {
	raw, err := b.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	return followedConn{RawConn: raw, upload: b.upload}, nil
}

type followedConn struct {
	syscall.RawConn
	upload *upload
}

// Read runs sendfile.
func (c followedConn) Read(f func(fd uintptr) (done bool)) error {
	return c.upload.use(func() error { return c.RawConn.Read(f) })
}
