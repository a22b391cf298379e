package host

import (
	"errors"
	"fmt"
	"io"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// spaceEvery is after how many bytes the disk is looked at again. A look costs a microsecond.
const spaceEvery = 16 << 20

// space sees to it that Limits.DiskFree stays free, as far as the storage can tell: a host whose disk a guest
// has filled can't serve its other guests either.
type space struct {
	limits  domain.Limits
	storage ports.StorageWithSpace // nil where it can't tell
	full    func()                 // tells of it
}

func (s *Service) spaceOf(storage ports.Storage) space {
	teller, _ := storage.(ports.StorageWithSpace)
	return space{s.limits, teller, s.diskFull}
}

// spaceIn is for storages that stand before another.
func spaceIn(storage ports.Storage) (free, disk int64, err error) {
	teller, ok := storage.(ports.StorageWithSpace)
	if !ok {
		return 0, 0, errors.ErrUnsupported
	}
	return teller.Space()
}

func (s *Service) diskFull() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fullDisks.again() {
		s.log.Warn("an artifact was refused: the disk has less free than the limit DiskFree asks for", "time", s.fullDisks)
	}
}

// check tells whether so many more bytes would leave enough.
func (s space) check(more int64) error {
	if s.storage == nil {
		return nil
	}
	free, disk, err := s.storage.Space()
	if err != nil {
		return nil // what can't be written says so itself
	}
	if keep := s.limits.KeepFree(disk); more > free-keep {
		s.full()
		return fmt.Errorf("%d bytes of the disk are free and %d more are to come, but the limit DiskFree keeps %d free", free, more, keep)
	}
	return nil
}

// writer looks at the disk now and then while it is written to.
func (s space) writer(w io.Writer) io.Writer {
	if s.storage == nil {
		return w
	}
	return &spaceWriter{Writer: w, space: s}
}

type spaceWriter struct {
	io.Writer
	space   space
	written int64 // since the last look
}

func (w *spaceWriter) Write(p []byte) (int, error) {
	if w.written += int64(len(p)); w.written >= spaceEvery {
		w.written = 0
		if err := w.space.check(int64(len(p))); err != nil {
			return 0, err
		}
	}
	return w.Writer.Write(p)
}
