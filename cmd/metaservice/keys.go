package main

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hexworker/metaservice/ports"
)

const (
	wayOut     = 0x1d // Ctrl-]
	wayOutKeys = 3
	wayOutTime = time.Second

	endOfInput = 0x04 // Ctrl-D, which a terminal takes for its end

	// keysAhead is how many keystrokes, or pieces of what is pasted, may wait for a shell that takes none:
	// the way out is heard that far.
	keysAhead = 1024
)

// relayed is an input that is being passed on.
type relayed struct {
	givenUp <-chan struct{} // closed by the way out
	stop    func()          // reads nothing from now on: what is typed then is somebody else's
}

// relayInput passes our input on, from now on.
func (c *console) relayInput(session ports.ShellSession) relayed {
	if c.spec.NoStdin || c.to.in == nil {
		return relayed{stop: func() {}}
	}
	input, stop := newInput(c.to.in)
	stdin := session.StdinPipe()
	switch {
	case c.typed:
		givenUp := make(chan struct{})
		keys := make(chan []byte, keysAhead)
		go func() { // ends with stop, or with the process
			defer c.terminal.restoreInPanic()
			readKeys(input, keys, session.Done(), sync.OnceFunc(func() { close(givenUp) }))
		}()
		go func() { // ends with the shell
			defer c.terminal.restoreInPanic()
			pressKeys(stdin, keys, session.Done())
		}()
		return relayed{givenUp: givenUp, stop: stop}
	case c.spec.TTY:
		stdin = &script{WriteCloser: stdin}
	}
	go func() { // ends with the shell, or with stop, at the latest with the process
		defer c.terminal.restoreInPanic()
		if _, err := io.Copy(stdin, input); !errors.Is(err, errStopped) {
			_ = stdin.Close() // one that has ended needs none
		}
	}()
	return relayed{stop: stop}
}

// readKeys reads ahead of the shell, so that the way out is heard even where the shell takes nothing.
func readKeys(from io.Reader, keys chan<- []byte, done <-chan struct{}, giveUp func()) {
	defer close(keys)
	var out exitKeys
	for {
		piece := make([]byte, 4096)
		n, err := from.Read(piece)
		if out.pressed(piece[:n], time.Now()) {
			giveUp()
		}
		if n > 0 {
			select {
			case keys <- piece[:n]:
			case <-done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pressKeys gives the shell what is typed, and hangs up when the terminal did.
func pressKeys(stdin io.WriteCloser, keys <-chan []byte, done <-chan struct{}) {
	for piece := range keys {
		if _, err := stdin.Write(piece); err != nil {
			return
		}
	}
	select {
	case <-done:
	default:
		_ = stdin.Close()
	}
}

// exitKeys hears the way out: Ctrl-] three times within a second, and nothing between.
type exitKeys struct {
	count int
	since time.Time
}

func (e *exitKeys) pressed(keys []byte, now time.Time) bool {
	for _, key := range keys {
		if key != wayOut {
			e.count = 0
			continue
		}
		if e.count == 0 || now.Sub(e.since) > wayOutTime {
			e.count, e.since = 0, now
		}
		if e.count++; e.count == wayOutKeys {
			return true
		}
	}
	return false
}

// script is the input of a terminal from something that is none. Closing it would hang up, and the shell
// would not see all of what was there: it is ended with the key that is for that.
type script struct {
	io.WriteCloser
	inLine bool
}

func (s *script) Write(p []byte) (int, error) {
	if len(p) > 0 {
		s.inLine = p[len(p)-1] != '\n'
	}
	return s.WriteCloser.Write(p)
}

func (s *script) Close() error {
	end := []byte{endOfInput}
	if s.inLine {
		end = []byte{endOfInput, endOfInput} // the first ends the line
	}
	_, err := s.WriteCloser.Write(end)
	return err
}

// errStopped is a read that isn't wanted any more.
var errStopped = errors.New("nobody reads any more")

// newInput is from, until stop.
func newInput(from io.Reader) (input io.Reader, stop func()) {
	if file, ok := from.(*os.File); ok {
		return stoppable(file)
	}
	return from, func() {}
}
