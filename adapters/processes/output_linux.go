package processes

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/ports"
)

// output is the reading end of what a tree writes. One goroutine reads.
type output struct {
	file  *os.File
	raw   syscall.RawConn
	ended atomic.Bool // the command has
	shut  atomic.Bool // stopped: the end, to the reader
	held  *os.File    // the tree's end of a shell's terminal, until the command has ended; else nil

	// The reader's own.
	draining bool
	room     int64         // while draining: bytes that may still come
	patience time.Duration // while draining: time that may still be waited
	came     time.Duration // while draining: the patience that was left when the last byte came
	lull     time.Duration // while draining: waiting for so long at its end is for one that is silent
	end      error         // set once over: io.EOF or ports.ErrOutputCut
}

// Capacity implements ports.Sized. What isn't a pipe holds too little to speak of.
func (o *output) Capacity() int {
	size := 0
	_ = o.raw.Control(func(fd uintptr) { size, _ = unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0) })
	return max(size, 0)
}

func newOutput(file *os.File) (*output, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &output{file: file, raw: raw, patience: DrainWait}, nil
}

// commandEnded wakes a Read that waits for more, so that it starts to count the time.
func (o *output) commandEnded() {
	o.ended.Store(true)
	o.letGo()
	_ = o.file.SetReadDeadline(time.Unix(1, 0))
}

// letGo closes the tree's end of the terminal. As long as that is held, a command may close all that it
// has of the terminal and open it again by name, which would else be the end to us.
func (o *output) letGo() {
	if o.held != nil {
		_ = o.held.Close() // which may be done twice
	}
}

// stop is the end to the reader, but leaves the file as it is.
func (o *output) stop() {
	o.shut.Store(true)
	_ = o.file.SetReadDeadline(time.Unix(1, 0))
}

// Read implements ports.Process.Output.
func (o *output) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for o.end == nil {
		if !o.draining && o.ended.Load() {
			o.draining = true
			o.room = o.buffered() + DrainMost
			o.came, o.lull = o.patience, o.patience/2
		}
		into := p
		if o.draining {
			if o.patience < time.Millisecond { // a deadline any nearer would never be waited for
				o.end = o.givenUp()
				break
			}
			// With no room left, one byte more tells the end from a tree that still writes.
			into = p[:min(int64(len(p)), max(o.room, 1))]
			// Not before: it would undo the one that commandEnded has set.
			_ = o.file.SetReadDeadline(time.Now().Add(o.patience))
		}
		if o.shut.Load() { // nor that of stop
			o.end = io.EOF
			break
		}
		n, waited, err := o.read(into)
		if o.draining {
			o.patience -= waited
			if n > 0 {
				o.came = o.patience
			}
			if int64(n) > o.room {
				o.end = ports.ErrOutputCut
				break
			}
			o.room -= int64(n)
		}
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			// The command has just ended, or the time is over: the loop's head knows.
		case err == nil, errors.Is(err, syscall.EIO), o.shut.Load():
			o.end = io.EOF // a terminal that nobody has open any more says EIO
		default:
			return 0, err
		}
	}
	return 0, o.end
}

// givenUp is what an output ends with whose time is over: whether something wrote up to then. What a tree
// may write that was silent for the last half of the time is no more missed than what it writes in an hour.
func (o *output) givenUp() error {
	if o.buffered() > 0 || o.came-o.patience < o.lull {
		return ports.ErrOutputCut
	}
	return io.EOF
}

// read reads once, and tells how long it waited. Time in which there was something to read doesn't
// count, however long a busy machine took over it.
func (o *output) read(p []byte) (n int, waited time.Duration, err error) {
	var since time.Time
	var readErr error
	err = o.raw.Read(func(fd uintptr) bool {
		if !since.IsZero() {
			waited += time.Since(since)
		}
		for {
			n, readErr = unix.Read(int(fd), p)
			if !errors.Is(readErr, unix.EINTR) {
				break
			}
		}
		since = time.Now()
		return !errors.Is(readErr, unix.EAGAIN)
	})
	if err != nil { // it waited in vain
		if !since.IsZero() {
			waited += time.Since(since)
		}
		return 0, waited, err
	}
	return max(n, 0), waited, readErr
}

// buffered is how much there is to read at this moment.
func (o *output) buffered() int64 {
	n := 0
	_ = o.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return int64(n)
}

// close is called once stop has been.
func (o *output) close() error {
	o.letGo()
	return closeOnce(o.file)
}
