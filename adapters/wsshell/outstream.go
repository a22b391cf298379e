package wsshell

import (
	"cmp"
	"io"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// smallRead is what is read at a time from a source that has little: an idle shell holds no more.
const smallRead = 4 << 10

// leastGather is how long a source that streams, but has little to read at the moment, is left alone to fill
// its pipe; for one that still has little afterwards it gets longer, up to mostGather. What was read before is
// on its way by then.
const (
	leastGather = 100 * time.Microsecond
	mostGather  = 8 * time.Millisecond
)

// dataRoom is what stands in front of a stream's bytes in a block.
const dataRoom = headRoom + domain.DataHead

// outStream is a stream's sending end: one goroutine writes, and waits for credit.
type outStream struct {
	stream domain.Stream
	block  int                         // bytes in one message, at most
	send   func(b *block, n int) error // as peer.send
	order  chan struct{}               // held while a message is sent: none follows the stream's end

	mu     sync.Mutex // guards what follows
	more   sync.Cond
	credit domain.Credit
	bytes  int64 // that were sent, or are about to be
	grants int64 // of credit
	closed bool  // by the writer
	err    error // nothing can be sent any more
}

func newOutStream(stream domain.Stream, block int, send func(*block, int) error) *outStream {
	s := &outStream{
		stream: stream,
		block:  block,
		send:   send,
		order:  make(chan struct{}, 1),
		credit: domain.NewCredit(domain.ShellWindow, domain.Shell2Window),
	}
	s.more.L = &s.mu
	return s
}

// granted takes the receiver's word, and tells whether it is of use: nobody needs more words than there were
// bytes. domain.ErrFlow where it can't be.
func (s *outStream) granted(n uint32) (useful bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.credit.Grant(n); err != nil {
		return false, err
	}
	s.grants++
	s.more.Signal()
	return n > 0 && s.grants <= s.bytes, nil
}

// end frees the writer: nothing can be sent any more.
func (s *outStream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.more.Broadcast()
	}
}

// isOver tells whether anything can be sent.
func (s *outStream) isOver() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over()
}

func (s *outStream) over() error {
	if s.closed {
		return io.ErrClosedPipe
	}
	return s.err
}

// acquire waits for credit, and takes what there is of it, up to most.
func (s *outStream) acquire(most int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.over() == nil && s.credit.Left() == 0 {
		s.more.Wait()
	}
	if err := s.over(); err != nil {
		return 0, err
	}
	n := s.credit.Spend(int64(min(most, s.block)))
	s.bytes += n
	return int(n), nil
}

// sent is how many bytes were sent, or are about to be.
func (s *outStream) sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

func (s *outStream) refund(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit.Refund(int64(n))
	s.bytes -= int64(n)
}

// Write implements io.Writer. What is out when the shell ends was written, as into a pipe whose reader ends
// next: only the next Write is told.
func (s *outStream) Write(p []byte) (written int, err error) {
	if len(p) == 0 {
		return 0, s.isOver()
	}
	b := getBlock()
	defer putBlock(b)
	for len(p) > 0 {
		n, err := s.acquire(len(p))
		if err != nil {
			return written, err
		}
		if err := s.sendBlock(b, copy(b.buf[dataRoom:], p[:n])); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// sendBlock sends the n bytes that stand in a block behind the head of a message, unless the stream was closed
// meanwhile.
func (s *outStream) sendBlock(b *block, n int) error {
	s.order <- struct{}{}
	defer func() { <-s.order }()
	if err := s.isOver(); err != nil {
		return err
	}
	return s.sendData(b, n)
}

func (s *outStream) sendData(b *block, n int) error {
	b.buf[headRoom], b.buf[headRoom+1] = byte(domain.FrameData), byte(s.stream)
	err := s.send(b, domain.DataHead+n)
	if err != nil {
		return cmp.Or(s.isOver(), err)
	}
	return nil
}

// ReadFrom implements io.ReaderFrom: io.Copy then copies no byte twice. It reads when it has credit, so
// that what is not sent stays with the source.
func (s *outStream) ReadFrom(r io.Reader) (total int64, err error) {
	small := &block{buf: make([]byte, dataRoom+smallRead)}
	b := small
	wait, plenty := leastGather, plentyOf(r, s.block)
	defer func() { putBlock(b) }()
	for {
		n, err := s.acquire(len(b.buf) - dataRoom)
		if err != nil {
			return total, err
		}
		got, readErr := r.Read(b.buf[dataRoom : dataRoom+n])
		s.refund(n - got)
		if got > 0 {
			if err := s.sendBlock(b, got); err != nil {
				return total, err
			}
			total += int64(got)
		}
		switch {
		case readErr == io.EOF:
			return total, nil
		case readErr != nil:
			return total, readErr
		case got >= smallRead && b == small:
			b = getBlock() // there is more
		case got < smallRead && b != small:
			putBlock(b)
			b = small
		case b == small:
		case got < plenty: // the source is the slower one: fewer, larger messages cost less
			nap(wait)
			wait = min(2*wait, mostGather)
		default:
			wait = max(wait/2, leastGather)
		}
	}
}

// plentyOf is how much is worth a message of its own: half a block, as far as the source can hold that much
// while nobody reads. One that can't, or doesn't say, is never left alone.
func plentyOf(r io.Reader, block int) int {
	sized, ok := r.(ports.Sized)
	if !ok {
		return 0
	}
	return min(block/2, sized.Capacity()/2)
}

// Close implements io.Closer: it sends the stream's end, once, behind what is being sent, and waits for no
// credit.
func (s *outStream) Close() error {
	s.mu.Lock()
	if err := s.over(); err != nil {
		s.closed = true
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.more.Broadcast()
	s.mu.Unlock()
	s.order <- struct{}{}
	defer func() { <-s.order }()
	return s.sendData(&block{buf: make([]byte, dataRoom)}, 0)
}
