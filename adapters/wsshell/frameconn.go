package wsshell

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
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

const (
	// dialogue is for how long after something small was written, of up to littleTyped bytes, the answer is
	// looked for without sleeping, and answerIn for how long each time: it is the host's caller, and not a
	// guest, that makes the host do so.
	dialogue    = time.Millisecond
	answerIn    = 100 * time.Microsecond
	littleTyped = 1 << 10
)

// errFlood is a peer that sends little but frames that are of no use: pings, empty fragments, messages of
// unknown types.
var errFlood = errors.New("the peer floods the connection with frames that carry nothing")

// errControl is a ping or a pong that RFC 6455, section 5.5, doesn't allow.
var errControl = fmt.Errorf("%w: a ping or a pong that can't be one", domain.ErrInvalidFrame)

// errMask is a frame of a guest's that isn't masked, or of a host's that is: RFC 6455, section 5.1.
var errMask = fmt.Errorf("%w: a frame whose mask is wrong", domain.ErrInvalidFrame)

// frameConn is the connection below the library. What the library is too slow for, or does with a fault,
// goes by it: whole messages either way, pings and pongs. The library has the handshake, the close frames, and
// whatever is out of the ordinary: it is the one that knows what else may come.
//
// One goroutine reads: by next, and by the library's Read for what next leaves to it.
type frameConn struct {
	net.Conn
	guest  bool                 // this is the guest's end, which masks what it writes
	most   int                  // bytes in a message that is taken
	onFail func(error)          // is told the first failure to write
	pinged func(payload []byte) // is told of a ping, on the reading goroutine
	ponged func(payload []byte) // likewise of a pong
	plain  atomic.Bool          // what goes either way are no frames yet

	writing  chan struct{} // held while a frame is written, which may take long; guards what follows, but for the atomics
	deadline time.Time
	closed   bool // a close frame was written: nothing may follow
	failed   atomic.Bool
	typed    atomic.Int64              // when something small was written last, as ticks; 0 is never
	last     atomic.Pointer[time.Time] // nothing may be written after it

	// The reader's own.
	early   []byte // that had come with the handshake
	eager   *eager // nil where there is no use for it
	read    *bufio.Reader
	passing int64 // bytes of a frame that the library is to have still
	final   bool  // that frame ends a message
	within  bool  // the library has had a part of a message
	whole   int64 // messages that the library has had to their ends
	loose   float64
	room    float64
	since   time.Time
}

// readAhead is what is read beyond what is asked for: a header at least, and with it what is small.
const readAhead = 4 << 10

func newFrameConn(conn net.Conn, guest bool, maxMessage int) *frameConn {
	room := float64(looseRoom + maxMessage)
	c := &frameConn{Conn: conn, guest: guest, most: maxMessage, loose: room, room: room, since: time.Now()}
	c.writing, c.onFail = make(chan struct{}, 1), func(error) {}
	wire.DontPace(conn)
	if !guest { // a guest's cores are its task's
		c.eager = newEager(conn)
	}
	c.read = bufio.NewReaderSize(counted{c}, readAhead)
	return c
}

// Write is the library's: a handshake, and then close frames, each in one piece. It never fails, to the
// library: a close frame that can't be sent is no reason to drop what has been received.
func (c *frameConn) Write(p []byte) (int, error) {
	if c.plain.Load() {
		return c.Conn.Write(p)
	}
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	if c.closed {
		return len(p), nil
	}
	c.closed = len(p) > 0 && p[0]&0x0f == opcodeClose
	c.send(p)
	return len(p), nil
}

// writeMessage writes a message of n bytes, which stands in a block behind headRoom, as one frame. It is of
// no use afterwards. That it can't be written is onFail's to know.
func (c *frameConn) writeMessage(b *block, n int) {
	typed := c.eager != nil && n <= littleTyped && domain.FrameType(b.buf[headRoom]) == domain.FrameData // no ack: a guest could ask for those
	frame := putHead(b.buf[:headRoom+n], opcodeBinary, c.guest)
	if typed {
		c.typed.Store(ticks())
	}
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	if !c.closed {
		c.send(frame)
	}
}

// writeControl writes a control frame, once the frame that is being written is out. That it can't is onFail's
// to know.
func (c *frameConn) writeControl(opcode byte, payload []byte) {
	var buf [headRoom + maxControl]byte
	n := copy(buf[headRoom:], payload)
	frame := putHead(buf[:headRoom+n], opcode, c.guest)
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	if !c.closed {
		c.closed = opcode == opcodeClose
		c.send(frame)
	}
}

func (c *frameConn) send(p []byte) {
	if c.failed.Load() {
		return
	}
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
	for last := &deadline; ; last = c.last.Load() {
		_ = c.Conn.SetWriteDeadline(*last)
		if c.last.Load() == last { // or an earlier one came meanwhile
			return
		}
	}
}

// hurried is for what has got out in the time that hurry gave it: what follows has until then. A bound that came
// meanwhile counts.
func (c *frameConn) hurried(until time.Time) {
	if last := c.last.Load(); last != nil && c.last.CompareAndSwap(last, &until) {
		for last = &until; ; last = c.last.Load() {
			_ = c.Conn.SetWriteDeadline(*last)
			if c.last.Load() == last {
				return
			}
		}
	}
}

// next reads a message that is in one frame, as almost all are, into a block, behind headRoom. It is nil where
// what comes is for the library: a close frame, a fragment, text, or what can't be.
func (c *frameConn) next() (*block, error) {
	head, err := c.begin()
	if err != nil || !head.isMessage() || head.payload() > int64(c.most) {
		return nil, err
	}
	n := int(head.payload())
	_, _ = c.read.Discard(head.n) // which is there
	b := getBlock()
	b.at, b.end = headRoom, headRoom+n
	if _, err := io.ReadFull(c.read, b.buf[b.at:b.end]); err != nil {
		putBlock(b)
		return nil, err
	}
	if head.masked() {
		mask(b.buf[b.at:b.end], head.key())
	}
	return b, nil
}

// begin peeks at the next frame's header, once the pings and pongs before it are taken out, and the pieces of a
// message in which there is nothing.
func (c *frameConn) begin() (head frameHead, err error) {
	for {
		head = frameHead{}
		for !head.whole() {
			p, err := c.read.Peek(head.size())
			head.take(p[head.n:])
			if err != nil {
				return head, err
			}
		}
		if head.masked() == c.guest {
			return head, errMask
		}
		if c.within && head.isEmptyPiece() { // each would cost the library as much as a message
			_, _ = c.read.Discard(head.n) // which is there
			continue
		}
		if opcode := head.opcode(); opcode != opcodePing && opcode != opcodePong {
			return head, nil
		}
		if err := c.control(&head); err != nil {
			return head, err
		}
	}
}

// control takes a ping or a pong out. The library would answer a ping on the goroutine that reads, behind what
// is being written, and where that takes 5 s it drops what has been received.
func (c *frameConn) control(head *frameHead) error {
	if head.buf[0] != finalBit|head.opcode() || head.payload() > maxControl {
		return errControl
	}
	var buf [maxControl]byte
	payload := buf[:head.payload()]
	_, _ = c.read.Discard(head.n)
	if _, err := io.ReadFull(c.read, payload); err != nil {
		return err
	}
	if head.masked() {
		mask(payload, head.key())
	}
	if head.opcode() == opcodePing {
		c.pinged(payload)
	} else {
		c.ponged(payload)
	}
	return nil
}

// Read is the library's. It passes one frame on, and not a byte of the one after it: that may be for next.
func (c *frameConn) Read(p []byte) (int, error) {
	if c.plain.Load() { // the handshake's answer, and no byte of what follows it
		return c.Conn.Read(p[:min(len(p), 1)])
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.passing == 0 {
		head, err := c.begin()
		if err != nil {
			return 0, err
		}
		if head.opcode() == opcodeClose {
			c.hurry(time.Now().Add(lastWrite))
		}
		c.passing = int64(head.n) + min(head.payload(), math.MaxInt64-headRoom)
		c.final = head.opcode() < opcodeClose && head.buf[0]&finalBit != 0
		c.within = !c.final && (c.within || head.opcode() < opcodeClose)
	}
	n, err := c.read.Read(p[:min(int64(len(p)), c.passing)])
	c.passing -= int64(n)
	if c.passing == 0 && c.final && n > 0 {
		c.whole++
	}
	return n, err
}

// counted is the connection, whose bytes are counted until useful says what they were good for.
type counted struct{ *frameConn }

func (c counted) Read(p []byte) (int, error) {
	n, err := c.receive(p)
	now := time.Now()
	c.loose = min(c.loose+now.Sub(c.since).Seconds()*looseRate, c.room) - float64(n)
	c.since = now
	if c.loose < 0 {
		return 0, errFlood
	}
	return n, err
}

// began is where ticks begin.
var began = time.Now()

// ticks is a time in nanoseconds that no change of the clock moves.
func ticks() int64 { return int64(time.Since(began)) }

// inDialogue tells whether something was typed just now.
func (c *frameConn) inDialogue() bool {
	typed := c.typed.Load()
	return typed != 0 && time.Duration(ticks()-typed) < dialogue
}

func (c *frameConn) receive(p []byte) (int, error) {
	if len(c.early) == 0 {
		if c.eager != nil && c.inDialogue() {
			if n, err, ok := c.eager.read(p, answerIn); ok {
				return n, err
			}
		}
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
