package wsshell

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// writeTimeout is how long one write may take, and spareTimeout how much longer it gets at most.
	writeTimeout = 30 * time.Second
	spareTimeout = 5 * time.Second
	// looseRate is how many bytes a second may come beside what is of use, and looseRoom how many at once.
	looseRate = 64 << 10
	looseRoom = 64 << 10
	// frameOverhead is what counts as of use in a message beside its payload: a masked frame's header has
	// no more than 14 bytes.
	frameOverhead = 16
)

// errFlood is a peer that sends little but frames that are of no use: pings, empty fragments, messages of
// unknown types.
var errFlood = errors.New("the peer floods the connection with frames that carry nothing")

// frameConn is the connection below the library. It knows where frames begin and end: one that is written
// leaves in one write, however it was made, and of those that are read, pings and pongs are taken out. One
// goroutine at a time writes, and one reads; the library sees to that.
type frameConn struct {
	net.Conn
	guest  bool        // this is the guest's end, which masks what it writes
	onFail func(error) // is told the first failure to write
	plain  atomic.Bool // what goes either way are no frames yet

	writing  sync.Mutex // held from a frame's first byte to its last; guards what follows, but for the atomics
	gathered []byte     // of the frame that is being written; from a pool, and nil between frames
	head     frameHead
	rest     int64 // of the frame's payload
	deadline time.Time
	closed   bool // a close frame was written: nothing may follow
	failed   atomic.Bool
	last     atomic.Pointer[time.Time] // nothing may be written after it

	// The reader's own.
	early []byte // that had come with the handshake
	in    controls
	loose float64 // bytes of no use that may still come
	room  float64
	since time.Time
}

func newFrameConn(conn net.Conn, guest bool, maxMessage int) *frameConn {
	room := float64(looseRoom + maxMessage)
	c := &frameConn{Conn: conn, guest: guest, onFail: func(error) {}, loose: room, room: room, since: time.Now()}
	c.in = controls{masked: !guest, closes: func() { c.hurry(time.Now().Add(lastWrite)) }}
	return c
}

// gatherSize is room for a frame of the largest block.
const gatherSize = 136 << 10

var gatherPool = sync.Pool{New: func() any { return new([gatherSize]byte) }}

// Write never fails, to the library: a pong that can't be sent is no reason to drop what has been received.
func (c *frameConn) Write(p []byte) (int, error) {
	if c.plain.Load() {
		return c.Conn.Write(p)
	}
	for rest := p; len(rest) > 0; {
		if c.head.n == 0 {
			c.writing.Lock()
		}
		n, end := c.scan(rest)
		if !c.closed {
			c.put(rest[:n], end)
		}
		if end {
			c.closed = c.closed || c.head.opcode() == opcodeClose
			c.head.n = 0
			c.writing.Unlock()
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// scan finds how much of p belongs to the frame that is being written, and whether that ends there.
func (c *frameConn) scan(p []byte) (n int, end bool) {
	if !c.head.whole() {
		n = c.head.take(p)
		if !c.head.whole() {
			return n, false
		}
		c.rest = c.head.payload()
	}
	take := min(int64(len(p)-n), c.rest)
	c.rest -= take
	return n + int(take), c.rest == 0
}

// writeControl writes a control frame, once the frame that is being written is out. That it can't is onFail's
// to know.
func (c *frameConn) writeControl(opcode byte, payload []byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.closed && !c.failed.Load() {
		c.send(appendControl(nil, opcode, payload, c.guest))
		c.closed = opcode == opcodeClose
	}
}

// put gathers a piece of a frame, or sends it with what was gathered.
func (c *frameConn) put(p []byte, end bool) {
	if c.failed.Load() {
		c.release()
		return
	}
	if end && len(c.gathered) == 0 {
		c.send(p)
		return
	}
	if len(c.gathered)+len(p) > gatherSize {
		c.flush()
		if len(p) > gatherSize {
			c.send(p)
			return
		}
	}
	if c.gathered == nil {
		c.gathered = gatherPool.Get().(*[gatherSize]byte)[:0]
	}
	c.gathered = append(c.gathered, p...)
	if end {
		c.flush()
		c.release()
	}
}

func (c *frameConn) flush() {
	if len(c.gathered) > 0 {
		c.send(c.gathered)
		c.gathered = c.gathered[:0]
	}
}

func (c *frameConn) release() {
	if c.gathered != nil {
		gatherPool.Put((*[gatherSize]byte)(c.gathered[:gatherSize]))
		c.gathered = nil
	}
}

func (c *frameConn) send(p []byte) {
	c.extendDeadline()
	if _, err := c.Conn.Write(p); err != nil && c.failed.CompareAndSwap(false, true) {
		c.onFail(fmt.Errorf("the connection can't be written to: %w", err))
	}
}

// extendDeadline gives the next write its time. Setting a deadline costs as much as writing a few bytes, so
// it is set with some to spare.
func (c *frameConn) extendDeadline() {
	now := time.Now()
	if c.last.Load() != nil || now.Add(writeTimeout).Before(c.deadline) {
		return
	}
	c.deadline = now.Add(writeTimeout + spareTimeout)
	_ = c.Conn.SetWriteDeadline(c.deadline)
	if last := c.last.Load(); last != nil { // set at the same time: it counts
		_ = c.Conn.SetWriteDeadline(*last)
	}
}

// hurry bounds the write that is under way, and all that follow. No later bound puts it off.
func (c *frameConn) hurry(deadline time.Time) {
	for {
		last := c.last.Load()
		if last != nil && last.Before(deadline) {
			return
		}
		if c.last.CompareAndSwap(last, &deadline) {
			break
		}
	}
	_ = c.Conn.SetWriteDeadline(deadline)
}

// Read counts what comes, until useful says what it was good for.
func (c *frameConn) Read(p []byte) (int, error) {
	if c.plain.Load() { // the handshake's answer, and no byte of what follows it
		return c.Conn.Read(p[:min(len(p), 1)])
	}
	for {
		n, err := c.receive(p)
		now := time.Now()
		c.loose = min(c.loose+now.Sub(c.since).Seconds()*looseRate, c.room) - float64(n)
		c.since = now
		if c.loose < 0 {
			return 0, errFlood
		}
		n, wrong := c.in.pass(p[:n])
		if wrong != nil {
			return n, wrong
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

func (c *frameConn) receive(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	c.early = c.early[n:]
	return n, nil
}

// useful notes that a message of n bytes was of use; what it took beside its payload is fine, too.
func (c *frameConn) useful(n int) {
	c.loose = min(c.loose+2*float64(n+frameOverhead), c.room)
}
