//go:build !linux

package processes

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/hexworker/metaservice/ports"
)

// output is the reading end of what a tree writes. Not every system's files have deadlines, so a
// goroutine reads ahead, one chunk; it ends at the stream's end, or when the file is closed.
type output struct {
	file   *os.File
	held   *os.File // the tree's end of a shell's terminal, until the command has ended; else nil
	chunks chan []byte
	ended  chan struct{} // closed when the command has
	closed chan struct{} // closed when it is stopped: the end, to the reader
	ending sync.Once
	once   sync.Once

	// The reader's own.
	rest     []byte
	over     bool
	cut      bool // the tree still wrote when it was given up
	room     int64
	patience time.Duration
	came     time.Duration // the patience that was left when the last chunk came
}

func newOutput(file *os.File) (*output, error) {
	o := &output{
		file:     file,
		chunks:   make(chan []byte),
		ended:    make(chan struct{}),
		closed:   make(chan struct{}),
		room:     DrainMost,
		patience: DrainWait,
		came:     DrainWait,
	}
	go o.pump()
	return o, nil
}

func (o *output) pump() {
	defer close(o.chunks)
	for {
		chunk := make([]byte, 64<<10)
		n, err := o.file.Read(chunk)
		if n > 0 {
			select {
			case o.chunks <- chunk[:n]:
			case <-o.closed:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (o *output) commandEnded() {
	o.ending.Do(func() { close(o.ended) })
	o.letGo()
}

// letGo closes the tree's end of the terminal. As long as that is held, a command may close all that it
// has of the terminal and open it again by name, which would else be the end to us.
func (o *output) letGo() {
	if o.held != nil {
		_ = o.held.Close() // which may be done twice
	}
}

// Read implements ports.Process.Output. What was there when the command ended costs no waiting, and is
// less than DrainMost: no system has pipes of that size.
func (o *output) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(o.rest) == 0 && !o.over {
		o.rest = o.next()
		o.over = o.rest == nil
	}
	if o.over {
		if o.cut {
			return 0, ports.ErrOutputCut
		}
		return 0, io.EOF
	}
	n := copy(p, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// next is the next chunk, or nil at the end.
func (o *output) next() []byte {
	select {
	case <-o.closed:
		return nil
	case chunk := <-o.chunks:
		return chunk
	case <-o.ended:
	}
	if o.patience <= 0 {
		o.cut = o.came-o.patience < DrainWait/2
		return nil
	}
	since := time.Now()
	over := time.NewTimer(o.patience)
	defer over.Stop()
	select {
	case <-o.closed:
		return nil
	case chunk := <-o.chunks:
		if chunk != nil && o.room <= 0 {
			o.cut = true
			return nil
		}
		o.patience -= time.Since(since)
		o.came = o.patience
		o.room -= int64(len(chunk))
		return chunk
	case <-over.C:
		o.patience -= time.Since(since)
		o.cut = o.came-o.patience < DrainWait/2
		return nil
	}
}

func (o *output) stop() { o.once.Do(func() { close(o.closed) }) }

// close is called once stop has been.
func (o *output) close() error {
	o.letGo()
	return closeOnce(o.file)
}
