package host

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// logQuiet is the buffer of a log body while little comes: a thousand idle guests must not hold a
// thousand large ones.
const logQuiet = 512

// maxLogBlocks is how many large ones all log bodies of a guest may have at a time, and logCrowded what the others
// have.
const (
	maxLogBlocks = 8
	logCrowded   = 4 << 10
)

// A Read that brings less than logPiece is one of logPieces in a second, for all log bodies of a guest together.
// Each costs 10 to 40 us, most of it before it is here, be it for one byte: at 70 % of a core a guest could go on so
// for hours before it has sent LogBytes.
const (
	logPiece      = 1 << 10
	logPieces     = 1000
	logPieceBurst = 1000
)

// logReads are what all log bodies of a guest share: how many large blocks they have, and how many small pieces they
// brought.
type logReads struct {
	blocks atomic.Int64

	mu     sync.Mutex // guards what follows
	pieces *domain.Rate
}

func (r *logReads) init() { r.pieces = domain.NewRate(logPieces, logPieceBurst) }

// logBuffer is what a log body is read into.
type logBuffer struct {
	reads *logReads
	quiet []byte
	block *[1 << 20]byte // in its place, where more comes
	some  []byte         // in its place, where the others have the blocks
	more  bool           // the last Read has filled what it was given: the next one will hardly wait
}

// next is what the next Read gets: a block only where more is there in all likelihood. A body that has gone silent
// waits with a small one, and those that end with a Read that was filled hold no more blocks than logBlocks.
func (b *logBuffer) next() []byte {
	switch {
	case !b.more:
		b.release()
		return b.quiet
	case b.block != nil:
	case b.reads.blocks.Add(1) <= maxLogBlocks:
		b.block = blocks.Get().(*[1 << 20]byte)
	default:
		b.reads.blocks.Add(-1)
		if b.some == nil {
			b.some = make([]byte, logCrowded)
		}
		return b.some
	}
	return b.block[:]
}

func (b *logBuffer) release() {
	b.some = nil
	if b.block != nil {
		blocks.Put(b.block)
		b.block = nil
		b.reads.blocks.Add(-1)
	}
}

// pieceTaken waits after a Read that brought no more than a piece, if these come too fast. What comes meanwhile comes
// with the next one.
func (s *Service) pieceTaken(ctx context.Context) error {
	s.logReads.mu.Lock()
	wait, _ := s.logReads.pieces.Reserve(time.Now(), time.Hour) // each waits for no more than the others
	s.logReads.mu.Unlock()
	return s.pause(ctx, wait)
}
