package limits

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a host with the limits that it has by default, and a guest's client of it.
type world struct {
	*metaservice.MetaService
	client  *hostclient.Client
	address string
	floods  bool // there is somebody else in the guest, who meets the limits
	dials   atomic.Int64
	said    *text // in the host's log, as warnings
	sink    *text
}

type text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

func newWorld(t *testing.T, options ...metaservice.Option) *world {
	t.Helper()
	w := &world{said: new(text), sink: new(text)}
	storage, err := metaservice.NewTemporaryStorage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(w.said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.MetaService = metaservice.New([]string{"true"}, nil, w.sink, nil, &metaservice.Environment{TemporaryStorage: storage, Logger: logger}, options...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	w.address = address
	w.client, err = hostclient.New(address, hostclient.Options{Dial: func(ctx context.Context) (net.Conn, error) {
		w.dials.Add(1)
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.Serve(ctx, listener) }()
	t.Cleanup(func() {
		w.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		w.client.Close()
		if said := w.said.String(); said != "" && !w.floods {
			t.Errorf("a guest that did what it was asked for has met a limit:\n%s", said)
		}
	})
	return w
}

// pollers is how many polls guest-tools have at once.
const pollers = 3

// guest polls, and answers each action on a goroutine of its own, until the test ends it.
func (w *world) guest(t *testing.T, answer func(context.Context, domain.Action) error) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range pollers {
		running.Go(func() {
			for ctx.Err() == nil {
				action, err := w.client.Poll(ctx)
				if w.floods && errors.Is(err, &domain.Error{Code: domain.CodeTooManyRequests}) {
					continue // it was held for a second
				}
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("a poll: %v", err)
						w.Close() // nobody answers any more
					}
					return
				}
				if action.Kind() == domain.KindNone {
					continue
				}
				running.Go(func() {
					if err := answer(ctx, action); err != nil && ctx.Err() == nil {
						t.Errorf("%s: %v", action.Kind(), err)
					}
				})
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// file is a file's content.
type file struct{ *strings.Reader }

func (file) Close() error { return nil }

func (f file) Size() int64 { return f.Reader.Size() }

// Threat 15's other side: ten thousand small files, 32 at a time, are twenty thousand requests. None is one too
// many, and no connection is closed on the guest in between.
func TestManyFilesMeetNoLimit(t *testing.T) {
	files, workers := 500, 32
	if *contract.Long {
		files = 10_000
	}
	w := newWorld(t)
	defer w.guest(t, func(ctx context.Context, action domain.Action) error {
		return w.client.SendArtifact(ctx, action.ID(), file{strings.NewReader("content of " + action.Path())})
	})()
	var fetching sync.WaitGroup
	paths := make(chan string)
	for range workers {
		fetching.Go(func() {
			for path := range paths {
				if t.Failed() {
					continue
				}
				artifact, err := w.Artifact(t.Context(), path)
				if err != nil {
					t.Error(err)
					continue
				}
				content, err := io.ReadAll(artifact)
				if artifact.Close(); err != nil || string(content) != "content of "+path {
					t.Errorf("%s is %q, %v", path, content, err)
				}
			}
		})
	}
	for i := range files {
		paths <- fmt.Sprintf("/f/%d", i)
	}
	close(paths)
	fetching.Wait()
	if dials := w.dials.Load(); dials > int64(workers+pollers+httpserver.Unclaimed) {
		t.Errorf("%d files took %d connections", files, dials)
	}
}

// All log bodies that there may be, at once.
func TestManyLogsMeetNoLimit(t *testing.T) {
	w := newWorld(t)
	logs := make([]ports.LogStream, domain.Defaults().Logs)
	for i := range logs {
		stream, err := w.client.OpenLog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		logs[i] = stream
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(w.sink.String()) < len(logs) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("of %d logs that are open at once %d have come", len(logs), len(w.sink.String()))
		}
	}
	if _, err := w.client.Execute(t.Context()); err != nil {
		t.Errorf("a request beside them: %v", err)
	}
	for _, stream := range logs {
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
}

// All shells that there may be, opened at once and open at once.
func TestManyShellsMeetNoLimit(t *testing.T) {
	w := newWorld(t)
	shells := domain.Defaults().Shells
	release := make(chan struct{})
	defer w.guest(t, func(ctx context.Context, action domain.Action) error {
		shell, err := w.client.OpenShell(ctx, action.ID(), false)
		if err != nil {
			return err
		}
		defer shell.Close()
		<-release
		return errors.Join(shell.Stdout().Close(), shell.Stderr().Close(), shell.Exit(ctx, domain.Report{Reason: domain.ReasonExited}))
	})()
	var open, over sync.WaitGroup
	for range shells {
		open.Add(1)
		over.Go(func() {
			shell, err := w.Shell(t.Context(), metaservice.ShellSpec{Command: []string{"true"}})
			open.Done()
			if err != nil {
				t.Error(err)
				return
			}
			if success, err := shell.Wait(); !success || err != nil {
				t.Errorf("a shell ended with %t, %v", success, err)
			}
		})
	}
	open.Wait()
	close(release)
	over.Wait()
}

// A task that posts one line after the other to its log, each on a connection of its own, isn't refused, however
// often it does so: it waits. Here that is at the fifth line already. The loss of one would be the task's failure.
func TestPostedLinesMeetNoLimit(t *testing.T) {
	const lines, burst = 60, 5
	w := newWorld(t, metaservice.WithLimits(metaservice.Limits{Requests: domain.Defaults().Requests, RequestBurst: burst}))
	begun := time.Now()
	var posting sync.WaitGroup
	for range 4 {
		posting.Go(func() {
			for range lines / 4 {
				if n, err := guest.PostLog(t.Context(), w.client, strings.NewReader("a line\n")); n != 7 || err != nil {
					t.Errorf("%d bytes of a line were posted: %v", n, err)
				}
				w.client.Close() // as a program's end does
			}
		})
	}
	posting.Wait()
	if took, least := time.Since(begun), (lines-burst)*time.Second/time.Duration(domain.Defaults().Requests); took < least {
		t.Errorf("%d lines took %s: they met no rate", lines, took)
	}
	// More than guest-tools keep of what they read, in case they are refused.
	large := strings.Repeat("a line\n", 100<<10/7)
	for range 2 * burst {
		if n, err := guest.PostLog(t.Context(), w.client, strings.NewReader(large)); n != int64(len(large)) || err != nil {
			t.Errorf("%d bytes of %d were posted: %v", n, len(large), err)
		}
	}
	if want := strings.Repeat("a line\n", lines) + strings.Repeat(large, 2*burst); w.sink.String() != want {
		t.Errorf("the log has %d bytes, not %d", len(w.sink.String()), len(want))
	}
}
