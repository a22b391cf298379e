package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
)

// world is a real MetaService that is served over TCP, until the test ends. Then nothing must be left
// of it: no goroutine, no file, no open file.
type world struct {
	service *metaservice.MetaService
	address string
	storage string // the folder of its temporary files
	log     *text
	results chan bool     // what the callback was told
	arrived chan struct{} // a token for each request that a connection of it has read
}

func newWorld(t *testing.T, limits metaservice.Limits, options ...metaservice.Option) *world {
	t.Helper()
	before := goleak.IgnoreCurrent()
	w := &world{storage: t.TempDir(), log: new(text), results: make(chan bool, 10), arrived: make(chan struct{}, 1<<16)}
	storage, err := metaservice.NewTemporaryStorage(w.storage)
	if err != nil {
		t.Fatal(err)
	}
	options = append(options, metaservice.WithLimits(limits))
	w.service = metaservice.New([]string{"sh", "-c", "true"}, map[string]string{"A": "1"}, w.log,
		func(success bool) { w.results <- success }, &metaservice.Environment{TemporaryStorage: storage}, options...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.service.Serve(ctx, watchedListener{listener, w.arrived}) }()
	t.Cleanup(func() {
		w.service.Close()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		w.nothingLeft(t)
		eventually(t, "no goroutine is left", func() error { return goleak.Find(before) })
	})
	return w
}

// nothingLeft checks that no artifact is kept, with a name or without one.
func (w *world) nothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is stored", func() error {
		entries, err := os.ReadDir(w.storage)
		if err != nil || len(entries) > 0 {
			return fmt.Errorf("%d files, %v", len(entries), err)
		}
		open, err := filepath.Glob("/proc/self/fd/*") // none where there is no /proc
		if err != nil {
			return err
		}
		for _, fd := range open {
			if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, w.storage+string(filepath.Separator)) {
				return fmt.Errorf("%s is open", target)
			}
		}
		return nil
	})
}

// eventually waits for check to find nothing wrong.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-tick.C {
		if err = check(); err == nil {
			return
		}
	}
	t.Errorf("it doesn't come to pass that %s: %v", what, err)
}

// contextWithCause is a context that the test's end cancels.
func contextWithCause(t *testing.T) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return ctx, cancel
}

// text is a log sink.
type text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *text) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *text) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// watchedListener tells when a request has been read, and its handler is about to run: net/http then
// begins another Read, to see the connection's end.
type watchedListener struct {
	net.Listener
	arrived chan struct{}
}

func (l watchedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watchedConn{TCPConn: conn.(*net.TCPConn), arrived: l.arrived}, nil
}

type watchedConn struct {
	*net.TCPConn
	arrived chan struct{}
	read    bool
}

func (c *watchedConn) Read(p []byte) (int, error) {
	if c.read {
		select {
		case c.arrived <- struct{}{}:
		default:
		}
	}
	n, err := c.TCPConn.Read(p)
	c.read = n > 0
	return n, err
}

// dial opens a connection that the test's end closes.
func (w *world) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(40 * time.Second))
	return conn.(*net.TCPConn)
}

// request makes one request on a connection of its own, as a guest does that keeps none.
func (w *world) request(method, target, body string, header ...string) (status int, answer string, err error) {
	r, err := http.NewRequest(method, "http://"+w.address+target, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r.Close = true
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 40 * time.Second}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, string(data), err
}

// poll polls until there is something to do.
func (w *world) poll(t *testing.T) wire.Action {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		status, answer, err := w.request("GET", wire.PathPoll, "")
		var action wire.Action
		if err == nil {
			err = json.Unmarshal([]byte(answer), &action)
		}
		if err != nil || status != http.StatusOK {
			t.Errorf("the poll got %d %s, %v", status, answer, err)
			return wire.Action{}
		}
		if action.Type != "none" {
			return action
		}
	}
	t.Error("no poll got an action")
	return wire.Action{}
}

// reply answers an action.
func (w *world) reply(id, body string, header ...string) (status int, answer string, err error) {
	return w.request("POST", wire.PathReply+"?id="+id, body, header...)
}

// got is what became of a GetArtifact.
type got struct {
	content string
	err     error
	took    time.Duration
}

// get asks for a file, on a goroutine of its own.
func (w *world) get(path string) <-chan got {
	result := make(chan got, 1)
	begun := time.Now()
	go func() {
		file, err := w.service.GetArtifact(path)
		if err != nil {
			result <- got{err: err, took: time.Since(begun)}
			return
		}
		content, err := io.ReadAll(file)
		file.Close()
		result <- got{string(content), err, time.Since(begun)}
	}()
	return result
}

// list is got of a ListFolder.
type list struct {
	paths []string
	err   error
	took  time.Duration
}

func (w *world) list(path string) <-chan list {
	result := make(chan list, 1)
	begun := time.Now()
	go func() {
		paths, err := w.service.ListFolder(path)
		result <- list{paths, err, time.Since(begun)}
	}()
	return result
}
