package processes

import (
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/ports"
)

// pipeSize is room for one to write on while the other isn't there: fewer wake-ups for the same bytes.
const pipeSize = 1 << 20

// The ends of a pipe.
const (
	reading = 0
	writing = 1
)

// openPipe opens a pipe of which one end is ours.
func openPipe(end int) (ours, childs *os.File, err error) {
	// Not os.Pipe, which makes both ends non-blocking: the child's must not be.
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe", err)
	}
	_ = unix.SetNonblock(fds[end], true)
	_, _ = unix.FcntlInt(uintptr(fds[end]), unix.F_SETPIPE_SZ, pipeSize) // as far as the user's quota goes
	return os.NewFile(uintptr(fds[end]), "pipe"), os.NewFile(uintptr(fds[1-end]), "pipe"), nil
}

// outputPipe is a pipe that a tree writes to.
func outputPipe() (*output, *os.File, error) {
	ours, childs, err := openPipe(reading)
	if err != nil {
		return nil, nil, err
	}
	out, err := newOutput(ours)
	if err != nil {
		ours.Close()
		childs.Close()
	}
	return out, childs, err
}

// inputPipe is a pipe that a tree reads from.
func inputPipe() (*input, *os.File, error) {
	ours, childs, err := openPipe(writing)
	if err != nil {
		return nil, nil, err
	}
	return newInput(ours), childs, nil
}

// openTerminal opens a terminal.
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
	_ = childs.Fd() // which makes it blocking, as the child expects it
	if err := setSize(childs, size); err != nil {
		return nil, nil, err
	}
	// pty leaves the master blocking, in which state a Read can't be woken.
	dup, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	_ = unix.SetNonblock(dup, true)
	return os.NewFile(uintptr(dup), "terminal"), childs, nil
}

func leaveNewlines(terminal int) error {
	mode, err := unix.IoctlGetTermios(terminal, unix.TCGETS)
	if err != nil {
		return os.NewSyscallError("tcgetattr", err)
	}
	mode.Oflag &^= unix.OPOST
	return os.NewSyscallError("tcsetattr", unix.IoctlSetTermios(terminal, unix.TCSETS, mode))
}
