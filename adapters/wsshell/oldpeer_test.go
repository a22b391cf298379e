package wsshell_test

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/tests/contract"
)

// What the ancestor does, by docs/protocol.md.
const (
	oldWindow = 64 << 10 // a receiver's room, above which it fails
	oldBlock  = 16 << 10
	oldLimit  = 20 << 10 // of a message
	oldBuffer = 4 << 10  // what is larger leaves in fragments
)

// sizes are how much goes through stdout and stderr.
func sizes() (large, small int) {
	if raceDetector && !*contract.Long {
		return 6 << 20, 1 << 20
	}
	return 42 << 20, 4 << 20
}

// oldPeer is either end as the ancestor has it, on the websocket library that it has. It shares no code
// with this package.
type oldPeer struct {
	*testing.T
	ws *websocket.Conn

	writing sync.Mutex

	mu      sync.Mutex // guards what follows
	changed sync.Cond
	credit  [3]int64
	sent    [3]int64
	grants  [3][]uint32 // acks that came
	inbox   [3][]byte
	most    [3]int // that inbox has held
	ended   [3]bool
	sizes   []string
	exits   []byte
	aborted bool
	gone    error // the end of reading
}

func newOldPeer(t *testing.T, ws *websocket.Conn) *oldPeer {
	p := &oldPeer{T: t, ws: ws, credit: [3]int64{oldWindow, oldWindow, oldWindow}}
	p.changed.L = &p.mu
	ws.SetReadLimit(oldLimit)
	go p.read()
	return p
}

func (p *oldPeer) read() {
	for {
		kind, message, err := p.ws.ReadMessage()
		p.mu.Lock()
		if err != nil {
			p.gone = err
		} else if err := p.take(kind, message); err != nil {
			p.Errorf("an old peer fails: %v", err)
			p.gone = err
		}
		over := p.gone != nil
		p.changed.Broadcast()
		p.mu.Unlock()
		if over {
			return
		}
	}
}

// take handles a message; p.mu is held.
func (p *oldPeer) take(kind int, message []byte) error {
	if kind != websocket.BinaryMessage || len(message) == 0 {
		return fmt.Errorf("a message of kind %d with %d bytes", kind, len(message))
	}
	switch data := message[1:]; message[0] {
	case 0:
		stream := data[0]
		if len(data) == 1 {
			p.ended[stream] = true
			return nil
		}
		if len(data)-1 > oldBlock {
			return fmt.Errorf("a block of %d bytes", len(data)-1)
		}
		p.inbox[stream] = append(p.inbox[stream], data[1:]...)
		p.most[stream] = max(p.most[stream], len(p.inbox[stream]))
		if len(p.inbox[stream]) > oldWindow {
			return fmt.Errorf("the pipe of stream %d is full: %d bytes", stream, len(p.inbox[stream]))
		}
	case 1:
		n := uint32(data[1])<<24 | uint32(data[2])<<16 | uint32(data[3])<<8 | uint32(data[4])
		p.credit[data[0]] += int64(n)
		p.grants[data[0]] = append(p.grants[data[0]], n)
	case 3:
		if p.sent[1] == 0 {
			return errors.New("a size crashes a guest whose shell has not started")
		}
		p.sizes = append(p.sizes, fmt.Sprintf("%dx%d", int(data[0])<<8|int(data[1]), int(data[2])<<8|int(data[3])))
	case 4:
		p.aborted = true
	case 5:
		if len(data) != 1 {
			return fmt.Errorf("an exit of %d bytes", len(message))
		}
		p.exits = append(p.exits, data[0])
	}
	return nil
}

// say sends a message; an end of the connection is read's to tell.
func (p *oldPeer) say(message ...byte) {
	p.writing.Lock()
	defer p.writing.Unlock()
	_ = p.ws.SetWriteDeadline(time.Now().Add(30 * time.Second))
	_ = p.ws.WriteMessage(websocket.BinaryMessage, message)
}

// wait waits until something is so, or the connection has ended.
func (p *oldPeer) wait(so func() bool) bool {
	late := false
	timer := time.AfterFunc(time.Minute, func() { p.seen(func() { late = true; p.changed.Broadcast() }) })
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !so() && p.gone == nil && !late {
		p.changed.Wait()
	}
	if late {
		p.Error("an old peer has waited for a minute")
	}
	return so()
}

// sender is a stream on its way out: an io.WriteCloser, 16 KiB at a time, within the credit.
type sender struct {
	*oldPeer
	stream byte
}

func (s sender) Write(data []byte) (n int, err error) {
	for n < len(data) {
		if !s.wait(func() bool { return s.credit[s.stream] > 0 }) {
			return n, errors.New("the connection ended")
		}
		s.mu.Lock()
		size := min(int64(len(data)-n), oldBlock, s.credit[s.stream])
		s.credit[s.stream] -= size
		s.sent[s.stream] += size
		s.changed.Broadcast()
		s.mu.Unlock()
		s.say(append([]byte{0, s.stream}, data[n:n+int(size)]...)...)
		n += int(size)
	}
	return n, nil
}

func (s sender) Close() error {
	s.say(0, s.stream)
	return nil
}

// receiver is a stream on its way in: each read is acknowledged at once.
type receiver struct {
	*oldPeer
	stream byte
}

func (r receiver) Read(p []byte) (int, error) {
	r.wait(func() bool { return len(r.inbox[r.stream]) > 0 || r.ended[r.stream] })
	r.mu.Lock()
	n := copy(p, r.inbox[r.stream])
	r.inbox[r.stream] = r.inbox[r.stream][n:]
	ended, gone := r.ended[r.stream], r.gone
	r.mu.Unlock()
	switch {
	case n > 0:
		r.say(1, r.stream, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
		return n, nil
	case ended:
		return 0, io.EOF
	}
	return 0, gone
}

// exit sends Exit and the close frame, and leaves the connection open.
func (p *oldPeer) exit(success bool) {
	failed := byte(1)
	if success {
		failed = 0
	}
	p.say(5, failed)
	p.writing.Lock()
	defer p.writing.Unlock()
	_ = p.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}

func (p *oldPeer) seen(what func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	what()
}

// sameBytes compares what came with what was sent.
func sameBytes(t *testing.T, what string, got, want []byte, err error) {
	t.Helper()
	if err != nil || string(got) != string(want) {
		t.Errorf("%s: %d bytes of %d, equal %v, %v", what, len(got), len(want), string(got) == string(want), err)
	}
}

var oldShell = domain.ShellSpec{Command: []string{"cat"}}
