package processes

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/ports"
)

// pipeSize is room for a tree to write on while nobody reads: fewer wake-ups for the same bytes.
const pipeSize = 1 << 20

// output is the reading end of what a tree writes. One goroutine reads.
type output struct {
	file  *os.File
	raw   syscall.RawConn
	ended atomic.Bool // the command has
	shut  atomic.Bool // closed: the end, to the reader

	// The reader's own.
	draining bool
	room     int64         // while draining: bytes that may still come
	patience time.Duration // while draining: time that may still be waited
	came     time.Duration // while draining: the patience that was left when the last byte came
	lull     time.Duration // while draining: waiting for so long at its end is for one that is silent
	end      error         // set once over: io.EOF or ports.ErrOutputCut
}

// openStream opens what a tree writes into: both ends, the child's for it alone.
func openStream(size *ports.TerminalSize, owner *credential) (*output, *os.File, error) {
	var ours, childs *os.File
	err := errors.ErrUnsupported
	if size != nil {
		ours, childs, err = openTerminal(*size)
	}
	if err != nil { // where a system has no terminals, a pipe must do
		ours, childs, err = openPipe()
	}
	if err != nil {
		return nil, nil, err
	}
	if owner != nil {
		// Programs open /dev/stderr by name: only the owner may.
		_ = childs.Chown(int(owner.UID), -1)
	}
	raw, err := ours.SyscallConn()
	if err != nil {
		ours.Close()
		childs.Close()
		return nil, nil, err
	}
	return &output{file: ours, raw: raw, patience: DrainWait}, childs, nil
}

func openPipe() (ours, childs *os.File, err error) {
	// Not os.Pipe, which makes both ends non-blocking: the child's must not be.
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe", err)
	}
	_ = unix.SetNonblock(fds[0], true)
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // as far as the user's quota goes
	return os.NewFile(uintptr(fds[0]), "output"), os.NewFile(uintptr(fds[1]), "output"), nil
}

// openTerminal opens a terminal that leaves newlines as they are, and takes no input.
func openTerminal(size ports.TerminalSize) (ours, childs *os.File, err error) {
	master, childs, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer master.Close()
	defer func() {
		if err != nil {
			childs.Close()
		}
	}()
	fd := int(childs.Fd()) // which makes it blocking, as the child expects it
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, nil, os.NewSyscallError("tcgetattr", err)
	}
	mode.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		return nil, nil, os.NewSyscallError("tcsetattr", err)
	}
	if err := pty.Setsize(childs, &pty.Winsize{Cols: size.Columns, Rows: size.Rows}); err != nil {
		return nil, nil, os.NewSyscallError("set the terminal's size", err)
	}
	// pty leaves the master blocking, in which state a Read can't be woken.
	dup, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	_ = unix.SetNonblock(dup, true)
	return os.NewFile(uintptr(dup), "terminal"), childs, nil
}

// commandEnded wakes a Read that waits for more, so that it starts to count the time.
func (o *output) commandEnded() {
	o.ended.Store(true)
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

func (o *output) Close() error {
	o.shut.Store(true)
	err := o.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
