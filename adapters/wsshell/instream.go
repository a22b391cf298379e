package wsshell

import (
	"fmt"
	"io"
	"sync"

	"github.com/hexworker/metaservice/domain"
)

const (
	// blockSize is room for the largest message and its frame's header, and for a byte more, which is too many.
	blockSize = headRoom + domain.Shell2Message + 1
	// keepWhole is from how many bytes on a message's block is queued as it is; less is copied, so that what
	// is held is never much more than what was sent.
	keepWhole = blockSize * 3 / 4
	// firstBlock is how large a block is that copies begin with.
	firstBlock = 4 << 10
)

// block is received bytes: buf[at:end] have not been read.
type block struct {
	buf     []byte
	at, end int
}

var blockPool = sync.Pool{New: func() any { return &block{buf: make([]byte, blockSize)} }}

func getBlock() *block {
	b := blockPool.Get().(*block)
	b.at, b.end = 0, 0
	return b
}

func putBlock(b *block) {
	if len(b.buf) == blockSize {
		blockPool.Put(b)
	}
}

// inStream is a stream's receiving end: the peer fills it, one goroutine reads.
type inStream struct {
	// room wants more window for the stream, and returns how much it got; it is asked when bytes come, and
	// must not block. grant sends credit, and must not block.
	room  func(want int64) int64
	grant func(n int64)

	reading *block // the reader's own

	mu     sync.Mutex // guards what follows
	more   sync.Cond
	queue  []*block // received, and not being read
	window domain.Window
	most   int64         // the largest window
	ahead  int64         // of the window, what room gave
	give   func(n int64) // takes that back, once no more can come; nil before
	asked  int           // how often room was asked
	came   int64         // bytes, in all
	left   int64         // of the block that is being read
	closed error         // nobody reads any more, for this reason: what comes is dropped
	err    error         // how it ends, once the queue is empty
	cutOff bool          // it was ended here: the peer may go on, and what comes is dropped
}

func newInStream(most int64) *inStream {
	s := &inStream{window: domain.NewWindow(domain.ShellWindow), most: most}
	s.more.L = &s.mu
	return s
}

// errAfterEnd is a stream that goes on after its end.
var errAfterEnd = fmt.Errorf("%w: data after the stream's end", domain.ErrInvalidFrame)

// receive takes a message's bytes in, which are b.buf[b.at:b.end], and b with them. domain.ErrFlow where
// they were never granted.
func (s *inStream) receive(b *block) error {
	n := int64(b.end - b.at)
	s.mu.Lock()
	err := s.window.Receive(n)
	if s.err == io.EOF && !s.cutOff {
		err = errAfterEnd
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	var grant int64
	if s.err == nil && s.closed == nil {
		s.came += n
		grant = s.grow()
		b = s.push(b)
		s.more.Signal()
	} else {
		grant = s.window.Consume(n)
	}
	s.mu.Unlock()
	if b != nil {
		putBlock(b)
	}
	if grant > 0 {
		s.grant(grant)
	}
	return nil
}

// grow makes the window larger, and returns what to grant: at the first output as much as a sender of
// version 1 may have, since most shells say little; and up to the most once it has been filled.
func (s *inStream) grow() (grant int64) {
	size := s.window.Size()
	target := min(s.most, domain.ShellAhead)
	if s.asked > 0 {
		target = s.most
	}
	if s.room == nil || s.asked > 1 || target <= size || s.asked == 1 && s.came < size {
		return 0
	}
	s.asked++
	got := s.room(target - size)
	if got == 0 {
		return 0
	}
	s.ahead += got
	return s.window.Grow(got)
}

// push queues a block, or a copy of what is in it: then the block is returned.
func (s *inStream) push(b *block) *block {
	if b.end-b.at >= keepWhole {
		s.queue = append(s.queue, b)
		return nil
	}
	data := b.buf[b.at:b.end]
	if len(s.queue) > 0 {
		tail := s.queue[len(s.queue)-1]
		n := copy(tail.buf[tail.end:], data)
		tail.end += n
		data = data[n:]
	}
	for len(data) > 0 {
		tail := s.newTail(len(data))
		tail.end = copy(tail.buf, data)
		data = data[tail.end:]
		s.queue = append(s.queue, tail)
	}
	return b
}

// newTail is a block to copy n bytes into, or some of them: as large as what the stream seems to need, and
// no larger than a good part of its window, which is what it may hold.
func (s *inStream) newTail(n int) *block {
	size := int(min(s.window.Size()/4, blockSize))
	if len(s.queue) == 0 {
		size = firstBlock
	}
	if size = max(size, min(n, blockSize)); size > blockSize/2 {
		return getBlock()
	}
	return &block{buf: make([]byte, size)}
}

// end ends the stream, once: what was received can be read still.
func (s *inStream) end(err error) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.err = err
	s.more.Broadcast()
	return true
}

// cut ends the stream for whoever reads it, behind what was received, though the peer may go on.
func (s *inStream) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err, s.cutOff = io.EOF, true
		s.more.Broadcast()
	}
}

// wantsCredit tells whether the peer may go on; s.mu must be held.
func (s *inStream) wantsCredit() bool { return s.err == nil || s.cutOff }

// abort ends the stream, and drops what was received.
func (s *inStream) abort(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != io.EOF || s.unread() > 0 {
		s.err = err
		s.drop(err)
	}
}

// drop drops what was received, and what is yet to come, and returns what to grant for it.
func (s *inStream) drop(why error) (grant int64) {
	if s.closed != nil {
		return 0
	}
	s.closed = why
	grant = s.window.Consume(s.unread())
	for _, b := range s.queue {
		putBlock(b)
	}
	s.queue, s.left = nil, 0
	s.more.Broadcast()
	return grant
}

func (s *inStream) unread() int64 {
	n := s.left
	for _, b := range s.queue {
		n += int64(b.end - b.at)
	}
	return n
}

// leave is called when no more can come. What room gave goes back by give: at once, but for what is held
// still, and that as it is read, or dropped.
func (s *inStream) leave(give func(n int64)) {
	s.mu.Lock()
	s.give, s.room = give, nil
	surplus := s.surplus()
	s.mu.Unlock()
	s.giveBack(surplus)
}

// surplus takes out what isn't needed any more of what room gave; s.mu must be held.
func (s *inStream) surplus() (n int64) {
	if s.give == nil {
		return 0
	}
	n = s.ahead - min(s.ahead, s.unread())
	s.ahead -= n
	return n
}

// giveBack gives a surplus back.
func (s *inStream) giveBack(n int64) {
	if n > 0 {
		s.give(n)
	}
}

// next is the block that is being read: the reader's own, until it is empty. It waits for one.
func (s *inStream) next() (*block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.reading == nil && len(s.queue) == 0 && s.err == nil && s.closed == nil {
		s.more.Wait()
	}
	switch {
	case s.closed != nil:
		s.release()
		return nil, s.closed
	case s.reading != nil:
		return s.reading, nil
	case len(s.queue) == 0:
		return nil, s.err
	}
	s.reading = s.queue[0]
	s.left = int64(s.reading.end - s.reading.at)
	s.queue[0] = nil
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return s.reading, nil
}

// release lets go of the block that is being read.
func (s *inStream) release() {
	if s.reading != nil {
		putBlock(s.reading)
		s.reading = nil
	}
}

// consumed notes that n bytes of the block that is being read were.
func (s *inStream) consumed(n int) {
	s.reading.at += n
	if s.reading.at == s.reading.end {
		s.release()
	}
	var grant int64
	s.mu.Lock()
	if s.closed == nil { // or all of it was granted by that
		s.left -= int64(n)
		grant = s.window.Consume(int64(n))
	}
	if !s.wantsCredit() {
		grant = 0
	}
	surplus := s.surplus()
	s.mu.Unlock()
	s.giveBack(surplus)
	if grant > 0 {
		s.grant(grant)
	}
}

// Read implements io.Reader.
func (s *inStream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := s.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, b.buf[b.at:b.end])
	s.consumed(n)
	return n, nil
}

// WriteTo implements io.WriterTo: io.Copy then copies no byte twice.
func (s *inStream) WriteTo(w io.Writer) (total int64, err error) {
	for {
		b, err := s.next()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(b.buf[b.at:b.end])
		total += int64(n)
		if n > 0 {
			s.consumed(n)
		}
		if err != nil {
			return total, err
		}
	}
}

// Close implements io.Closer: what comes from now on is dropped, and granted again, so that the peer is
// not held up.
func (s *inStream) Close() error {
	s.mu.Lock()
	grant := s.drop(io.ErrClosedPipe)
	if !s.wantsCredit() {
		grant = 0
	}
	surplus := s.surplus()
	s.mu.Unlock()
	s.giveBack(surplus)
	if grant > 0 {
		s.grant(grant)
	}
	return nil
}
