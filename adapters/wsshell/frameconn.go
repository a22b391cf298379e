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

	opcodeClose = 8
)

// errFlood is a peer that sends little but frames that are of no use: pings, empty fragments, messages of
// unknown types.
var errFlood = errors.New("the peer floods the connection with frames that carry nothing")

// frameConn is the connection below the library. It knows where the frames that are written begin and end,
// so that a frame leaves in one write, however it was made. One goroutine at a time writes, and one reads;
// the library sees to that.
type frameConn struct {
	net.Conn
	onFail func(error) // is told the first failure to write
	plain  atomic.Bool // what is written are no frames yet

	// The writer's own.
	gathered []byte // of the frame that is being written; from a pool, and nil between frames
	head     [14]byte
	headLen  int   // bytes of head that are there
	rest     int64 // of the frame's payload
	deadline time.Time
	closing  bool // the frame that is being written is a close frame
	closed   bool // a close frame was written: nothing may follow
	failed   atomic.Bool
	last     atomic.Pointer[time.Time] // nothing may be written after it

	// The reader's own.
	loose float64 // bytes of no use that may still come
	room  float64
	since time.Time
}

func newFrameConn(conn net.Conn, maxMessage int) *frameConn {
	room := float64(looseRoom + maxMessage)
	return &frameConn{Conn: conn, onFail: func(error) {}, loose: room, room: room, since: time.Now()}
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
		n, end := c.scan(rest)
		if !c.closed {
			c.put(rest[:n], end)
		}
		if end && c.closing {
			c.closed = true
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// scan finds how much of p belongs to the frame that is being written, and whether that ends there.
func (c *frameConn) scan(p []byte) (n int, end bool) {
	for n < len(p) && !c.haveHead() {
		c.head[c.headLen] = p[n]
		c.headLen++
		n++
		if c.haveHead() {
			c.rest = c.payload()
			c.closing = c.head[0]&0x0f == opcodeClose
		}
	}
	if !c.haveHead() {
		return n, false
	}
	take := min(int64(len(p)-n), c.rest)
	c.rest -= take
	n += int(take)
	if c.rest == 0 {
		c.headLen = 0
		return n, true
	}
	return n, false
}

// headSize is how long the header is, as far as it is known: RFC 6455, section 5.2.
func (c *frameConn) headSize() int {
	size := 2
	if c.headLen < size {
		return size
	}
	switch c.head[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if c.head[1]&0x80 != 0 {
		size += 4
	}
	return size
}

func (c *frameConn) haveHead() bool { return c.headLen >= c.headSize() }

func (c *frameConn) payload() (n int64) {
	switch short := c.head[1] & 0x7f; short {
	case 126:
		return int64(c.head[2])<<8 | int64(c.head[3])
	case 127:
		for _, b := range c.head[2:10] {
			n = n<<8 | int64(b)
		}
		return n
	default:
		return int64(short)
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

// hurry bounds the write that is under way, and all that follow.
func (c *frameConn) hurry(deadline time.Time) {
	c.last.Store(&deadline)
	_ = c.Conn.SetWriteDeadline(deadline)
}

// Read counts what comes, until useful says what it was good for.
func (c *frameConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	now := time.Now()
	c.loose = min(c.loose+now.Sub(c.since).Seconds()*looseRate, c.room) - float64(n)
	c.since = now
	if c.loose < 0 {
		return 0, errFlood
	}
	return n, err
}

// useful notes that a message of n bytes was of use; what it took beside its payload is fine, too.
func (c *frameConn) useful(n int) {
	c.loose = min(c.loose+2*float64(n+frameOverhead), c.room)
}
