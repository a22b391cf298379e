//go:build unix

package processes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// setSize sets a terminal's size at either of its ends, and tells its foreground processes. Not by
// way of pty, whose use of the descriptor would make the file blocking.
func setSize(terminal *os.File, size ports.TerminalSize) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	closed := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns})
	})
	if closed != nil {
		return os.ErrClosed // it says so in words alone
	}
	return os.NewSyscallError("set the terminal's size", err)
}

// openStream opens what a tree writes into: both ends, the child's for it alone.
func openStream(size *ports.TerminalSize, owner *credential) (out *output, childs *os.File, err error) {
	err = errors.ErrUnsupported
	if size != nil {
		out, childs, err = plainTerminal(*size)
	}
	if err != nil { // where a system has no terminals, a pipe must do
		out, childs, err = outputPipe()
	}
	if err != nil {
		return nil, nil, err
	}
	give(childs, owner)
	return out, childs, nil
}

// plainTerminal is a terminal that leaves newlines as they are.
func plainTerminal(size ports.TerminalSize) (out *output, childs *os.File, err error) {
	ours, childs, err := openTerminal(size)
	if err != nil {
		return nil, nil, err
	}
	if err = leaveNewlines(int(childs.Fd())); err == nil {
		out, err = newOutput(ours)
	}
	if err != nil {
		ours.Close()
		childs.Close()
	}
	return out, childs, err
}

// openShellTerminal opens a terminal that is to be a command's controlling one.
func openShellTerminal(size ports.TerminalSize) (*shellStreams, error) {
	ours, childs, err := openTerminal(size)
	if noTerminals(err) {
		return nil, fmt.Errorf("%w: this system has no terminals (mount devpts, or ask for none): %w", domain.ErrFeatureNotSupported, err)
	}
	if err != nil {
		return nil, err
	}
	out, err := newOutput(ours)
	if err != nil {
		ours.Close()
		childs.Close()
		return nil, err
	}
	out.held = childs
	return &shellStreams{
		in:     newInput(ours),
		out:    out,
		childs: standard{in: childs, out: childs, err: childs, terminal: true},
		resize: func(size ports.TerminalSize) error { return setSize(ours, size) },
	}, nil
}

// noTerminals tells whether a terminal couldn't be opened for want of any.
func noTerminals(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// give lets a child's user open its files by name, as /dev/stderr: only the owner may.
func give(childs *os.File, owner *credential) {
	if owner != nil {
		_ = childs.Chown(int(owner.UID), -1)
	}
}
