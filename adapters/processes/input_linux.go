package processes

import (
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// input is the writing end of what a tree reads. One goroutine writes.
type input struct {
	file   *os.File
	hangUp func()      // closes a terminal, whose file is its output's; nil for a pipe
	over   atomic.Bool // nothing is written any more

	closing sync.Once
	closed  error
}

func newInput(file *os.File) *input { return &input{file: file} }

// Write implements ports.ShellProcess.Stdin.
func (i *input) Write(p []byte) (int, error) {
	if i.over.Load() {
		return 0, os.ErrClosed
	}
	n, err := i.file.Write(p)
	if err != nil && i.over.Load() {
		err = os.ErrClosed
	}
	return n, err
}

func (i *input) stop() {
	i.over.Store(true)
	_ = i.file.SetWriteDeadline(time.Unix(1, 0))
}
