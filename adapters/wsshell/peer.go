//lint:file-ignore SA1019 The library is frozen, and named by those who use this project: see the package comment.

package wsshell

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"nhooyr.io/websocket"

	"github.com/hexworker/metaservice/domain"
)

// Subprotocol is what a guest offers in its handshake, and a host chooses, for domain.FeatureShell2.
const Subprotocol = "metaservice.shell.v2"

const (
	// maxSilence is how long one's own pings may go unanswered, where nothing else is said, and pingsAtOnce how
	// many go out in that time.
	maxSilence  = 45 * time.Second
	pingsAtOnce = 3
	// lastReads is for how long what the peer has sent is still read once nothing can be sent any more.
	lastReads = 2 * time.Second
)

var (
	// errEnded is a connection that the peer ended before it had said what it should.
	errEnded = errors.New("the connection ended")
	// errText is a message that isn't binary.
	errText = fmt.Errorf("%w: it is text", domain.ErrInvalidFrame)
)

// peer is what both ends have in common: a websocket with streams on it.
type peer struct {
	ws      *websocket.Conn
	conn    *frameConn
	v2      bool
	block   int           // bytes of data in one message, at most
	silence time.Duration // until the peer is given up that answers no ping
	in      [domain.Streams]*inStream
	out     [domain.Streams]*outStream
	// control is told all but data and credit, on the reading goroutine. An error ends the connection.
	control func(domain.Frame) error
	// ended is told, once, that nothing is sent any more, and why.
	ended func(error)
	// begun, unless it is nil, is told of the first data, on the reading goroutine.
	begun func()

	turn  chan struct{}  // held by whoever sends a message
	wake  chan struct{}  // room for one: there is something in pending
	over  chan struct{}  // closed when nothing is sent any more
	tasks sync.WaitGroup // the sender
	alive *time.Timer    // ends it all when no ping of ours is answered

	mu       sync.Mutex // guards what follows
	pending  pending
	pings    []nonce // of ours that may still be answered
	cause    error   // why it is over
	writeErr error
	lastRead time.Time // nothing is read after it, unless it is zero
}

// pending is what is to be sent beside data. What is newer replaces what is older, or is added to it.
type pending struct {
	credit [domain.Streams]int64
	size   *domain.Frame
	hold   bool // the size
	abort  bool
	ping   bool
	pong   []byte // its payload, unless it is nil
}

// nonce is what a ping says, and its answer: nobody can know it who hasn't got the ping.
type nonce [8]byte

func newPeer(v2 bool) *peer {
	p := &peer{
		v2:      v2,
		block:   domain.ShellBlock,
		silence: maxSilence,
		turn:    make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		over:    make(chan struct{}),
	}
	if v2 {
		p.block = domain.Shell2Block
	}
	return p
}

// maxMessage is the largest message that is taken.
func (p *peer) maxMessage() int {
	if p.v2 {
		return domain.Shell2Message
	}
	return domain.ShellMessage
}

// largestWindow is what a sender is granted at most.
func (p *peer) largestWindow() int64 {
	if p.v2 {
		return domain.Shell2Window
	}
	return domain.ShellAhead
}

// receiving makes the receiving end of a stream. room is inStream's.
func (p *peer) receiving(stream domain.Stream, room func(want int64) int64) *inStream {
	s := newInStream(p.largestWindow())
	s.room = room
	s.grant = func(n int64) { p.ask(func(todo *pending) { todo.credit[stream] += n }) }
	p.in[stream] = s
	return s
}

// sending makes the sending end of a stream.
func (p *peer) sending(stream domain.Stream) *outStream {
	p.out[stream] = newOutStream(stream, p.block, p.send)
	return p.out[stream]
}

// start takes the connected websocket over.
func (p *peer) start(ws *websocket.Conn, conn *frameConn) {
	p.ws, p.conn = ws, conn
	ws.SetReadLimit(int64(p.maxMessage()))
	conn.onFail = p.writeFailed
	conn.pinged, conn.ponged, conn.most = p.pinged, p.ponged, p.maxMessage()
	p.alive = time.AfterFunc(p.silence, func() { p.end(fmt.Errorf("the peer has not answered for %s", p.silence)) })
	p.tasks.Go(p.sendPending)
}

// ask has the sender send something.
func (p *peer) ask(what func(*pending)) {
	p.mu.Lock()
	what(&p.pending)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // it will look
	}
}

// send sends a message of n bytes, which stands in a block behind headRoom, and blocks while the connection
// takes no more. What is in the block is of no use afterwards.
func (p *peer) send(b *block, n int) error {
	select {
	case p.turn <- struct{}{}:
	case <-p.over:
		return p.why()
	}
	defer func() { <-p.turn }()
	select {
	case <-p.over:
		return p.why()
	default:
	}
	p.conn.writeMessage(b, n)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writeErr
}

// writeFailed keeps the first failure. What the peer has sent before is still read: its exit may be in it.
func (p *peer) writeFailed(err error) {
	p.mu.Lock()
	p.writeErr = err
	p.mu.Unlock()
	p.readOn(lastReads)
}

// readOn bounds for how long reading goes on. No later bound puts it off.
func (p *peer) readOn(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := time.Now().Add(d); p.lastRead.IsZero() || last.Before(p.lastRead) {
		p.lastRead = last
		_ = p.conn.SetReadDeadline(last)
	}
}

// why is why it is over.
func (p *peer) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause
}

// end breaks the connection off, once.
func (p *peer) end(err error) {
	p.mu.Lock()
	if p.cause != nil {
		p.mu.Unlock()
		return
	}
	timeout, ok := errors.AsType[net.Error](err) // gVisor's are no os.ErrDeadlineExceeded
	if p.writeErr != nil && (ok && timeout.Timeout() || errors.Is(err, errEnded)) {
		err = p.writeErr // the one led to the other
	}
	p.cause = err
	p.alive.Stop()
	p.mu.Unlock()
	p.conn.Conn.Close() // not the library's, which waits
	p.ended(err)        // who has better words for it than err says them first
	for _, s := range p.out {
		if s != nil {
			s.end(err)
		}
	}
	close(p.over)
}

// sendPending is the sender: no stream waits for it, and it waits for no stream's credit.
func (p *peer) sendPending() {
	pings := time.NewTicker(p.silence / pingsAtOnce)
	defer pings.Stop()
	for {
		select {
		case <-p.over:
			return
		case <-p.wake:
			p.flush()
		case <-pings.C:
			p.ask(func(todo *pending) { todo.ping = true })
		}
	}
}

func (p *peer) flush() {
	p.mu.Lock()
	todo := p.pending
	p.pending = pending{hold: todo.hold}
	if todo.hold {
		p.pending.size, todo.size = todo.size, nil
	}
	p.mu.Unlock()
	if todo.pong != nil {
		p.sendControl(opcodePong, todo.pong)
	}
	if todo.ping {
		p.ping()
	}
	for stream, n := range todo.credit {
		if n > 0 {
			f := domain.Frame{Type: domain.FrameAck, Stream: domain.Stream(stream), Credit: uint32(n)}
			_ = p.sendFrame(f) // its end is p.end's to tell
		}
	}
	if todo.size != nil {
		_ = p.sendFrame(*todo.size)
	}
	if todo.abort && p.sendFrame(domain.Frame{Type: domain.FrameAbort}) == nil {
		p.conn.hurried(time.Now().Add(abortLinger)) // the guest may have more to say, for which it wants credit
	}
}

// sendFrame sends a message that is no data.
func (p *peer) sendFrame(f domain.Frame) error {
	b := &block{buf: f.Append(make([]byte, headRoom, headRoom+smallFrame))}
	return p.send(b, len(b.buf)-headRoom)
}

// smallFrame is room for all messages but data and reports.
const smallFrame = 8

// ping sends a ping.
func (p *peer) ping() {
	var n nonce
	_, _ = rand.Read(n[:]) // which never fails
	p.mu.Lock()
	p.pings = append(p.pings, n)
	if len(p.pings) > pingsAtOnce {
		p.pings = p.pings[1:]
	}
	p.mu.Unlock()
	p.sendControl(opcodePing, n[:])
}

// ponged takes a pong. One that answers none of our pings says nothing of the peer.
func (p *peer) ponged(payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answered := slices.ContainsFunc(p.pings, func(n nonce) bool { return bytes.Equal(payload, n[:]) })
	if answered && p.cause == nil {
		p.alive.Reset(p.silence)
	}
}

// pinged has a ping answered. Of several, the newest is enough: RFC 6455, section 5.5.3.
func (p *peer) pinged(payload []byte) {
	p.ask(func(todo *pending) { todo.pong = append(make([]byte, 0, maxControl), payload...) })
}

// sendControl sends a control frame behind the message that is being sent.
func (p *peer) sendControl(opcode byte, payload []byte) {
	select {
	case p.turn <- struct{}{}:
		p.conn.writeControl(opcode, payload)
		<-p.turn
	case <-p.over:
	}
}

// read reads messages until the connection ends, and returns why it did.
func (p *peer) read() error {
	for {
		b, err := p.conn.next()
		if b == nil && err == nil {
			b, err = p.readOdd()
		}
		if err != nil {
			return readError(err)
		}
		if err := p.handle(b); err != nil {
			return err
		}
	}
}

// readOdd has the library read what is no message in one frame.
func (p *peer) readOdd() (*block, error) {
	before := p.conn.whole
	kind, r, err := p.ws.Reader(context.Background())
	if err != nil {
		return nil, err
	}
	if kind != websocket.MessageBinary {
		return nil, errText
	}
	b := getBlock()
	n, err := readMessage(r, b.buf[headRoom:headRoom+p.maxMessage()+1])
	if err == nil && p.conn.whole == before { // the library has taken the end of the connection for the message's
		err = errEnded
	}
	if err != nil {
		putBlock(b)
		return nil, err
	}
	b.at, b.end = headRoom, headRoom+n
	return b, nil
}

// readMessage reads a whole message into buf, which has room for a byte more than a message may have.
func readMessage(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, fmt.Errorf("%w: it has more than %d bytes", domain.ErrInvalidFrame, len(buf)-1)
}

// readError says in our words how reading ended.
func readError(err error) error {
	if status := websocket.CloseStatus(err); status != -1 {
		return fmt.Errorf("%w: the peer closed it with status %d", errEnded, status)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errEnded
	}
	return err
}

// handle takes a message, and b with it.
func (p *peer) handle(b *block) error {
	f, err := domain.ParseFrame(b.buf[b.at:b.end])
	if err == nil && f.Type == domain.FrameData && len(f.Bytes) > 0 {
		return p.data(f, b)
	}
	defer putBlock(b)
	switch {
	case err != nil:
		return err
	case f.Type == domain.FrameData:
		return p.streamEnded(f.Stream)
	case f.Type == domain.FrameAck:
		return p.acked(f)
	case !f.Known(), f.Type == domain.FrameReport && !p.v2:
		return nil // a newer peer's; how many there are is counted below
	}
	return p.control(f)
}

func (p *peer) data(f domain.Frame, b *block) error {
	s := p.in[f.Stream]
	if s == nil {
		putBlock(b)
		return fmt.Errorf("%w: data of %s, which goes the other way", domain.ErrInvalidFrame, f.Stream)
	}
	p.conn.useful(b.end - b.at)
	if p.begun != nil {
		p.begun()
		p.begun = nil
	}
	b.at += domain.DataHead
	return s.receive(b)
}

func (p *peer) streamEnded(stream domain.Stream) error {
	s := p.in[stream]
	if s == nil {
		return fmt.Errorf("%w: an end of %s, which goes the other way", domain.ErrInvalidFrame, stream)
	}
	if !s.end(io.EOF) {
		return nil // it was told before
	}
	return p.control(domain.Frame{Type: domain.FrameData, Stream: stream})
}

func (p *peer) acked(f domain.Frame) error {
	s := p.out[f.Stream]
	if s == nil {
		return fmt.Errorf("%w: credit for %s, which goes the other way", domain.ErrInvalidFrame, f.Stream)
	}
	useful, err := s.granted(f.Credit)
	if useful {
		p.conn.useful(0)
	}
	return err
}

// close ends all that is left, once reading has ended.
func (p *peer) close(err error) {
	p.end(err)
	_ = p.ws.CloseNow()
	p.tasks.Wait()
}
