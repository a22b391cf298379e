package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync"
)

var (
	errEnded   = errors.New("the input is read no more")
	errTooLong = fmt.Errorf("the line has more than %d bytes", maxLine)
)

// input is a reader that can be told to end, and tells when all that it has read is dealt with. A read
// that waits for bytes goes on waiting: nothing ends that.
type input struct {
	reader io.Reader
	heard  chan struct{} // holds a token where bytes came since somebody looked
	busy   chan struct{} // holds a token except while it waits for bytes
	ended  chan struct{}
	end    func() // read no more
}

func newInput(reader io.Reader) *input {
	i := &input{reader: reader, heard: make(chan struct{}, 1), busy: make(chan struct{}, 1), ended: make(chan struct{})}
	i.busy <- struct{}{}
	i.end = sync.OnceFunc(func() { close(i.ended) })
	return i
}

// Read returns errEnded once end was called.
func (i *input) Read(buffer []byte) (int, error) {
	select {
	case <-i.ended:
		return 0, errEnded
	default:
	}
	<-i.busy
	n, err := i.reader.Read(buffer)
	i.busy <- struct{}{}
	if n > 0 {
		select {
		case i.heard <- struct{}{}:
		default: // one is there
		}
	}
	return n, err
}

// nextLine reads a line, without its end. It skips all of one that is too long. Only the input's own end
// ends a line too: one that is cut by an error is none.
func nextLine(lines *bufio.Reader) ([]byte, error) {
	var line []byte
	length := 0
	for {
		part, err := lines.ReadSlice('\n')
		length += len(part)
		ends := err == nil || errors.Is(err, io.EOF) && length > 0
		if err == nil {
			part = part[:len(part)-1]
			length--
		}
		if length <= maxLine {
			line = append(line, part...)
		} else {
			line = nil
		}
		switch {
		case ends && length > maxLine:
			return nil, errTooLong
		case ends:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
