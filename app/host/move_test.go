package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// bulk is a body that moves itself: a ports.BulkBody.
type bulk struct {
	*body
	moved atomic.Int64
	fails error // of MoveTo, if set
}

func (b *bulk) MoveTo(w io.ReaderFrom, most int64) (n int64, err error) {
	if b.fails != nil {
		return 0, b.fails
	}
	defer func() { b.moved.Add(n) }()
	buf := make([]byte, 64<<10)
	for n < most {
		got, err := b.Read(buf[:min(int64(len(buf)), most-n)])
		taken, werr := w.ReadFrom(bytes.NewReader(buf[:got]))
		n += taken
		switch {
		case werr != nil:
			return n, fmt.Errorf("%w: %w", domain.ErrStorage, werr)
		case errors.Is(err, errDeadline):
			return n, context.DeadlineExceeded
		case err != nil:
			return n, err
		}
	}
	return n, nil
}

// taking is a storage whose uploads take what they can by themselves.
type taking struct {
	ports.Storage
	slow time.Duration // for which each of them does so
	each func()        // is called each time; nil is nothing
}

func (s taking) Create(size int64) (ports.Upload, error) {
	upload, err := s.Storage.Create(size)
	return takingUpload{upload, s}, err
}

type takingUpload struct {
	ports.Upload
	storage taking
}

func (u takingUpload) ReadFrom(r io.Reader) (int64, error) {
	time.Sleep(u.storage.slow)
	if u.storage.each != nil {
		u.storage.each()
	}
	return io.Copy(struct{ io.Writer }{u.Upload}, r)
}

// spaceTaking is one that can tell how much room there is.
type spaceTaking struct {
	taking
	*disk
}

func (s spaceTaking) Create(size int64) (ports.Upload, error) { return s.taking.Create(size) }

// transfer has a guest answer with a body, and returns what became of it.
func transfer(ctx context.Context, t *testing.T, s *host.Service, storage ports.Storage, b *bulk, size int64) (content []byte, reply, err error) {
	t.Helper()
	type result struct {
		content []byte
		err     error
	}
	got := make(chan result, 1)
	go func() {
		file, err := s.Fetch(ctx, "/file", storage)
		if err != nil {
			got <- result{nil, err}
			return
		}
		content, err := io.ReadAll(file)
		got <- result{content, errors.Join(err, file.Close())}
	}()
	reply = s.Artifact(t.Context(), take(t, s).ID(), ports.ArtifactReply{Body: b, Size: size})
	r := <-got
	return r.content, reply, r.err
}

var once = func(c *host.Config) { c.Limits.Tries = 1 }

func TestABodyThatMovesItself(t *testing.T) {
	for name, test := range map[string]struct {
		fails error
		moves bool
	}{
		"moves":     {moves: true},
		"can't now": {fails: errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				content := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
				b := &bulk{body: newBody(), fails: test.fails}
				go func() {
					for rest := content; len(rest) > 0; {
						n := min(len(rest), 300_000)
						b.chunks <- rest[:n]
						rest = rest[n:]
						time.Sleep(100 * time.Millisecond)
					}
					b.end <- io.EOF
				}()
				m := &memory{}
				got, reply, err := transfer(t.Context(), t, newService(t, nil), taking{Storage: m}, b, int64(len(content)))
				if reply != nil || err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes came, %v, %v", len(got), reply, err)
				}
				if moved := b.moved.Load(); test.moves != (moved == int64(len(content))) {
					t.Errorf("%d bytes moved by themselves", moved)
				}
				if m.left() != 0 {
					t.Error("something is left")
				}
			})
		})
	}
}

// Threat 1, of a body that doesn't come through the host's own hands: it is held to the same pace.
func TestThreat01AMovingBodyKeepsThePace(t *testing.T) {
	for name, test := range map[string]struct {
		every time.Duration
		bytes int
		times int
		ends  time.Duration // zero is that it comes whole
	}{
		"silent":                {ends: 30 * time.Second},
		"a byte a second":       {every: time.Second, bytes: 1, times: 1000, ends: 30 * time.Second},
		"then silent":           {every: time.Second, bytes: 40 << 10, times: 3, ends: 33 * time.Second},
		"just above the floor":  {every: 20 * time.Second, bytes: 40 << 10, times: 30},
		"much, now and then":    {every: 29 * time.Second, bytes: 1 << 20, times: 5},
		"at once, but not ever": {every: 10 * time.Millisecond, bytes: 1 << 20, times: 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bulk{body: newBody()}
				stop := make(chan struct{})
				go func() {
					for range test.times {
						select {
						case <-time.After(test.every):
						case <-stop:
							return
						}
						b.chunks <- make([]byte, test.bytes)
					}
					if test.ends == 0 {
						b.end <- io.EOF
					}
				}()
				begun := time.Now()
				m := &memory{}
				got, _, err := transfer(t.Context(), t, newService(t, once), taking{Storage: m}, b, 100<<20)
				took := time.Since(begun)
				close(stop)
				switch {
				case test.ends == 0:
					if err != nil || len(got) != test.bytes*test.times {
						t.Errorf("%d bytes came, %v", len(got), err)
					}
				case !errors.Is(err, domain.ErrSlowReply):
					t.Errorf("it ended with %v", err)
				case took < test.ends-time.Second || took > test.ends+time.Second:
					t.Errorf("it took %s, not %s", took, test.ends)
				}
				if m.left() != 0 {
					t.Error("something is left")
				}
			})
		})
	}
}

func TestASlowDiskThatTakesByItselfIsNotASlowGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bulk{body: newBody()}
		for range 3 {
			b.chunks <- []byte("a few bytes")
		}
		b.end <- io.EOF
		got, reply, err := transfer(t.Context(), t, newService(t, once), taking{Storage: &memory{}, slow: time.Minute}, b, 33)
		if len(got) != 33 || reply != nil || err != nil {
			t.Errorf("%d bytes came, %v, %v", len(got), reply, err)
		}
	})
}

func TestACallerCanGiveUpABodyThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		time.AfterFunc(7*time.Second, func() { cancel(why) })
		begun := time.Now()
		m := &memory{}
		_, reply, err := transfer(ctx, t, newService(t, nil), taking{Storage: m}, &bulk{body: newBody()}, 100)
		if !errors.Is(err, why) || reply == nil || m.left() != 0 {
			t.Errorf("%v, %v; %d left", err, reply, m.left())
		}
		if took := time.Since(begun); took != 7*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// What is wrong at the host is not tried again, what is wrong with the guest's body is.
func TestErrorsOfABodyThatMoves(t *testing.T) {
	full := errors.New("no space left on device")
	for name, test := range map[string]struct {
		storage error
		end     error
		is      []error
	}{
		"a full disk": {storage: full, is: []error{domain.ErrStorage, full}},
		"cut":         {end: io.ErrUnexpectedEOF, is: []error{domain.ErrBrokenReply, io.ErrUnexpectedEOF}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bulk{body: newBody()}
				b.chunks <- make([]byte, 1000)
				b.end <- test.end
				m := &memory{write: test.storage}
				_, reply, err := transfer(t.Context(), t, newService(t, once), taking{Storage: m}, b, 5000)
				wantError(t, reply, test.is)
				wantError(t, err, append(test.is, domain.ErrNonFatalInternalError))
				if m.left() != 0 {
					t.Error("something is left")
				}
			})
		})
	}
}

// Threat 11: others may fill the disk while an artifact comes.
func TestThreat11AMovingBodyLooksAtTheDisk(t *testing.T) {
	const mib = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		d := &disk{size: 1000 * mib}
		b := &bulk{body: newBody()}
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case b.chunks <- make([]byte, mib):
				case <-stop:
					return
				}
			}
		}()
		others := func() { d.written += mib }
		_, _, err := transfer(t.Context(), t, newService(t, once), spaceTaking{taking{Storage: d, each: others}, d}, b, 500*mib)
		close(stop)
		if !errors.Is(err, domain.ErrStorage) || b.moved.Load() > 100*mib {
			t.Errorf("after %d MiB: %v", b.moved.Load()/mib, err)
		}
	})
}
