package processes

import (
	"errors"
	"os"
)

// Close implements ports.ShellProcess.Stdin. A terminal's file stays open, for its output.
func (i *input) Close() error {
	i.closing.Do(func() {
		i.stop()
		if i.hangUp != nil {
			i.hangUp()
			return
		}
		i.closed = closeOnce(i.file)
	})
	return i.closed
}

func (i *input) commandEnded() { i.stop() }

func (i *input) close() error {
	if i.hangUp != nil {
		return nil
	}
	return closeOnce(i.file)
}

// closeOnce closes a file that may have been closed before.
func closeOnce(file *os.File) error {
	if err := file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
