package host_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// counter makes ids that tests can foretell: 1, 2, 3 and so on.
type counter struct{ n atomic.Int64 }

func (c *counter) NewID() domain.ActionID {
	return domain.ActionID(strconv.FormatInt(c.n.Add(1), 10))
}

// newService makes a service that is closed when the test ends.
func newService(t *testing.T, change func(*host.Config)) *host.Service {
	t.Helper()
	config := host.Config{
		Execute: domain.Execute{Command: []string{"true"}, Env: map[string]string{"A": "1"}},
		IDs:     &counter{},
	}
	if change != nil {
		change(&config)
	}
	s, err := host.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// memory is a ports.Storage in memory, which counts what is left in it.
type memory struct {
	mu        sync.Mutex
	open      int // uploads and files
	committed int
	write     error // of every Write, once set
	create    error
}

func (m *memory) Create(int64) (ports.Upload, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.create != nil {
		return nil, m.create
	}
	m.open++
	return &memoryUpload{m: m}, nil
}

func (m *memory) left() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open
}

func (m *memory) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open--
}

type memoryUpload struct {
	m    *memory
	buf  bytes.Buffer
	done bool
}

func (u *memoryUpload) Write(p []byte) (int, error) {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	if u.m.write != nil {
		return 0, u.m.write
	}
	return u.buf.Write(p)
}

func (u *memoryUpload) Commit() (io.ReadSeekCloser, error) {
	if u.done {
		return nil, errors.New("the upload has ended already")
	}
	u.done = true
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	u.m.committed++
	return &memoryFile{Reader: bytes.NewReader(u.buf.Bytes()), m: u.m}, nil
}

func (u *memoryUpload) Close() error {
	if !u.done {
		u.done = true
		u.m.drop()
	}
	return nil
}

type memoryFile struct {
	*bytes.Reader
	m    *memory
	once sync.Once
}

func (f *memoryFile) Close() error {
	f.once.Do(f.m.drop)
	return nil
}

// body is a reply's body whose bytes come when the test sends them, with deadlines as a connection
// has them.
type body struct {
	chunks chan []byte
	end    chan error // what Read returns after the chunks
	rest   []byte

	mu       sync.Mutex
	deadline time.Time
	moved    chan struct{}
}

func newBody() *body {
	return &body{chunks: make(chan []byte, 100), end: make(chan error, 1), moved: make(chan struct{})}
}

// text is a body that is there at once.
func text(s string) *body {
	b := newBody()
	b.chunks <- []byte(s)
	b.end <- io.EOF
	return b
}

func (b *body) SetReadDeadline(t time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deadline = t
	close(b.moved)
	b.moved = make(chan struct{})
	return nil
}

var errDeadline = errors.New("i/o timeout")

func (b *body) Read(p []byte) (int, error) {
	for {
		if len(b.rest) > 0 {
			n := copy(p, b.rest)
			b.rest = b.rest[n:]
			return n, nil
		}
		select {
		case b.rest = <-b.chunks:
			continue
		default:
		}
		b.mu.Lock()
		deadline, moved := b.deadline, b.moved
		b.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, errDeadline
			}
			timer := time.NewTimer(left)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case b.rest = <-b.chunks:
		case err := <-b.end:
			if len(b.chunks) > 0 { // they came before
				b.end <- err
				continue
			}
			return 0, err
		case <-moved:
		case <-expired:
			return 0, errDeadline
		}
	}
}

// deaf is a body that has no deadlines, as behind somebody else's middleware.
type deaf struct{ *body }

func (deaf) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// take polls once, as a guest does, and returns what it was handed.
func take(t *testing.T, s *host.Service) domain.Action {
	t.Helper()
	var got domain.Action
	if err := s.Poll(t.Context(), func(a domain.Action) error { got = a; return nil }); err != nil {
		t.Errorf("Poll: %v", err)
	}
	return got
}

// decodeJSON stands in for the wire's parser.
func decodeJSON(r io.Reader, add func(string) error) (bool, error) {
	var files struct {
		Files    []string
		NotFound bool
	}
	if err := json.NewDecoder(r).Decode(&files); err != nil {
		return false, err
	}
	for _, name := range files.Files {
		if err := add(name); err != nil {
			return false, err
		}
	}
	return files.NotFound, nil
}

// fetch runs Fetch on a goroutine of its own.
func fetch(ctx context.Context, s *host.Service, m *memory) <-chan fetched {
	got := make(chan fetched, 1)
	go func() {
		file, err := s.Fetch(ctx, "/file", m)
		f := fetched{err: err}
		if file != nil {
			content, readErr := io.ReadAll(file)
			f.content = string(content)
			f.err = errors.Join(err, readErr, file.Close())
		}
		got <- f
	}()
	return got
}

type fetched struct {
	content string
	err     error
}

// wantError checks that err is each of the errors, and says each of the words.
func wantError(t *testing.T, err error, is []error, words ...string) {
	t.Helper()
	if err == nil {
		t.Error("there is no error")
		return
	}
	for _, target := range is {
		if !errors.Is(err, target) {
			t.Errorf("the error is not %q: %v", target, err)
		}
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error doesn't say %q: %v", word, err)
		}
	}
}
