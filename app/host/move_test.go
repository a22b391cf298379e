package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
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
	left  int64 // of what was announced
	moved atomic.Int64
	fails error // of MoveTo, if set
}

func (b *bulk) MoveTo(w io.ReaderFrom, most int64) (n int64, err error) {
	if b.fails != nil {
		return 0, b.fails
	}
	from := &noting{Reader: b.body}
	n, err = w.ReadFrom(&io.LimitedReader{R: from, N: min(most, b.left)})
	b.moved.Add(n)
	b.left -= n
	switch {
	case errors.Is(from.err, errDeadline):
		return n, context.DeadlineExceeded
	case from.err != nil && from.err != io.EOF:
		return n, from.err
	case err != nil:
		return n, fmt.Errorf("%w: %w", domain.ErrStorage, err)
	case from.err == io.EOF, b.left == 0:
		return n, io.EOF
	}
	return n, nil
}

// noting keeps the error that a reader ends with.
type noting struct {
	io.Reader
	err error
}

func (f *noting) Read(p []byte) (n int, err error) {
	n, err = f.Reader.Read(p)
	f.err = err
	return n, err
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
	b.left = size
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
						time.Sleep(100 * time.Millisecond)
						b.chunks <- rest[:n]
						rest = rest[n:]
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

// keeping is a storage that knows how much is in it.
type keeping struct {
	memory
	held, most atomic.Int64
}

func (k *keeping) Create(size int64) (ports.Upload, error) {
	upload, err := k.memory.Create(size)
	return &keepingUpload{Upload: upload, in: k}, err
}

func (k *keeping) File(string) ports.Storage { return taking{Storage: k} }

type keepingUpload struct {
	ports.Upload
	in   *keeping
	held int64
}

func (u *keepingUpload) Write(p []byte) (int, error) {
	u.held += int64(len(p))
	if held := u.in.held.Add(int64(len(p))); held > u.in.most.Load() {
		u.in.most.Store(held)
	}
	return len(p), nil
}

func (u *keepingUpload) Commit() (io.ReadSeekCloser, error) {
	u.held = 0 // it stays
	return u.Upload.Commit()
}

func (u *keepingUpload) Close() error {
	u.in.held.Add(-u.held)
	u.held = 0
	return u.Upload.Close()
}

// largeFiles is a guest with a folder of two files of 24 MiB, which it sends at the same time.
func largeFiles(ctx context.Context, api ports.GuestAPI) {
	const mib = 1 << 20
	var polls sync.WaitGroup
	defer polls.Wait()
	for range 2 {
		polls.Go(func() {
			for {
				var a domain.Action
				if api.Poll(ctx, func(got domain.Action) error { a = got; return nil }) != nil {
					return
				}
				if a.Kind() == domain.KindListFolder {
					api.Folder(ctx, a.ID(), ports.FolderReply{Body: text(`{"files":["/f/a","/f/b"]}`), Size: -1, Decode: decodeJSON})
					continue
				}
				b := &bulk{body: newBody(), left: 24 * mib}
				over := make(chan struct{})
				polls.Go(func() {
					time.Sleep(time.Second) // both have begun
					for range 24 {
						select {
						case b.chunks <- make([]byte, mib):
						case <-over:
							return
						}
					}
					b.end <- io.EOF
				})
				api.Artifact(ctx, a.ID(), ports.ArtifactReply{Body: b, Size: 24 * mib})
				close(over)
			}
		})
	}
}

// Threat 11: large files of one folder that come at the same time, and are taken without being seen, keep within its
// limit together, to the byte. What just fits comes.
func TestThreat11MovingBodiesShareTheirFoldersRoom(t *testing.T) {
	for name, bring := range map[string]func(t *testing.T, kept *keeping, limits domain.Limits) error{
		"Collect": func(t *testing.T, kept *keeping, limits domain.Limits) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := newService(t, func(c *host.Config) { c.Limits = limits })
			go largeFiles(ctx, s)
			return s.Collect(ctx, host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return kept, nil }}, nil).Err
		},
		"ExtractFolder": func(t *testing.T, kept *keeping, limits domain.Limits) error {
			result := extractable(t, taking{Storage: kept}, limits, largeFiles)
			return result.ExtractFolder(t.Context(), "/f", func(string, io.ReadSeeker) error { return nil })
		},
	} {
		for limit, fails := range map[int64]bool{40 << 20: true, 48<<20 - 1: true, 48 << 20: false} {
			t.Run(fmt.Sprint(name, limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					kept := &keeping{}
					err := bring(t, kept, domain.Limits{Tries: 1, FolderBytes: limit})
					if fails {
						wantError(t, err, nil, "FolderBytes")
					} else if err != nil {
						t.Error(err)
					}
					if most := kept.most.Load(); most > limit {
						t.Errorf("there were %d bytes of the %d that the limit allows", most, limit)
					}
				})
			})
		}
	}
}

// extractable is the result of a guest that serves its files.
func extractable(t *testing.T, storage ports.Storage, limits domain.Limits, serve func(context.Context, ports.GuestAPI)) ports.ResultSet {
	t.Helper()
	m := &machine{guest: func(ctx context.Context, api ports.GuestAPI) error {
		defer serve(ctx, api)
		return api.Resolve(ctx, domain.Result{Success: true})
	}}
	engine, err := host.NewEngine(host.EngineConfig{Machine: m, Storage: storage, IDs: &counter{}, Limits: limits,
		Handler: func(api ports.GuestAPI, _ map[string]ports.Handler) ports.Handler {
			m.api = api
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Dispose(context.Background()) })
	result, err := startSandbox(t, engine).WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// A file that is whole when nobody waits for it any more doesn't count when it comes again: its body can't be
// interrupted, and its try was given up.
func TestAnExtractedFileThatCameTooLateCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		guest := func(ctx context.Context, api ports.GuestAPI) {
			for {
				var a domain.Action
				if api.Poll(ctx, func(got domain.Action) error { a = got; return nil }) != nil {
					return
				}
				if a.Kind() == domain.KindListFolder {
					api.Folder(ctx, a.ID(), ports.FolderReply{Body: text(`{"files":["/f/a"]}`), Size: -1, Decode: decodeJSON})
					continue
				}
				b := deaf{newBody()}
				if tries++; tries == 1 {
					time.AfterFunc(40*time.Second, func() { // a try has 30 s
						b.chunks <- []byte("0123456789")
						b.end <- io.EOF
					})
				} else {
					b.chunks <- []byte("0123456789")
					b.end <- io.EOF
				}
				api.Artifact(ctx, a.ID(), ports.ArtifactReply{Body: b, Size: 10})
			}
		}
		result := extractable(t, &memory{}, domain.Limits{FolderBytes: 15}, guest)
		came := 0
		err := result.ExtractFolder(t.Context(), "/f", func(string, io.ReadSeeker) error { came++; return nil })
		if err != nil || came != 1 || tries != 2 {
			t.Errorf("%d files came in %d tries: %v", came, tries, err)
		}
	})
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
		others := func() { d.written += 200 * mib }
		_, _, err := transfer(t.Context(), t, newService(t, once), spaceTaking{taking{Storage: d, each: others}, d}, b, 500*mib)
		close(stop)
		if !errors.Is(err, domain.ErrStorage) || b.moved.Load() > 100*mib {
			t.Errorf("after %d MiB: %v", b.moved.Load()/mib, err)
		}
	})
}
