//go:build !linux

package processes

import (
	"os"
	"sync"
)

// input is the writing end of what a tree reads. Not every system's files have deadlines, so a goroutine
// writes, one chunk at a time; it ends with the input, or when what it writes to is gone.
type input struct {
	file   *os.File
	hangUp func() // closes a terminal, whose file is its output's; nil for a pipe
	chunks chan []byte
	wrote  chan result   // has room for one: the writer may have stopped waiting
	over   chan struct{} // closed when nothing is written any more
	ending sync.Once

	closing sync.Once
	closed  error
}

type result struct {
	n   int
	err error
}

// inputChunk is how much one Write of the file takes.
const inputChunk = 128 << 10

func newInput(file *os.File) *input {
	i := &input{file: file, chunks: make(chan []byte), wrote: make(chan result, 1), over: make(chan struct{})}
	go i.pump()
	return i
}

func (i *input) pump() {
	for {
		select {
		case chunk := <-i.chunks:
			n, err := i.file.Write(chunk)
			i.wrote <- result{n, err}
		case <-i.over:
			return
		}
	}
}

// Write implements ports.ShellProcess.Stdin.
func (i *input) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		// A copy: the pump may still have it when this has returned.
		chunk := append([]byte(nil), p[:min(len(p), inputChunk)]...)
		n, err := i.write(chunk)
		total += n
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

func (i *input) write(chunk []byte) (int, error) {
	select {
	case <-i.over: // for certain, also where the pump would take it
		return 0, os.ErrClosed
	default:
	}
	select {
	case i.chunks <- chunk:
	case <-i.over:
		return 0, os.ErrClosed
	}
	select {
	case r := <-i.wrote:
		return r.n, r.err
	case <-i.over:
		return 0, os.ErrClosed
	}
}

func (i *input) stop() { i.ending.Do(func() { close(i.over) }) }
