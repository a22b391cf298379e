package httpserver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/httpserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes is a listener in memory: real sockets don't count as blocked in a bubble.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
}

// dial is for a listener that is served. The test closes what it returns.
func (p *pipes) dial(t *testing.T) net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	t.Cleanup(func() { ours.Close() })
	return ours
}

// inMemory serves handler in a bubble until the test ends, and returns what dials.
func inMemory(t *testing.T, handler http.HandlerFunc, logger *slog.Logger) (dial func() net.Conn) {
	t.Helper()
	p := newPipes()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- httpserver.Serve(ctx, p, handler, logger) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // net/http lingers for half of one after a refusal, so that it arrives
	})
	return func() net.Conn { return p.dial(t) }
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (*pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func ok(http.ResponseWriter, *http.Request) {}

var silence = slog.New(slog.DiscardHandler)

// ends waits for the other end to close, and returns what it said before.
func ends(t *testing.T, conn net.Conn, begun time.Time) (said string, after time.Duration) {
	t.Helper()
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("reading: %v", err)
	}
	return string(all), time.Since(begun)
}

// Threat 2: headers that never end held a connection for as long as the guest liked.
func TestSlowHeadersAreCut(t *testing.T) {
	for _, sent := range []string{"GET ", "GET / HTTP/1.1\r\nHost: h\r\nA: ", "drip"} {
		synctest.Test(t, func(t *testing.T) {
			conn := inMemory(t, ok, silence)()
			begun := time.Now()
			var dripping sync.WaitGroup
			if sent == "drip" {
				dripping.Go(func() {
					for {
						if _, err := io.WriteString(conn, "G"); err != nil {
							return
						}
						time.Sleep(500 * time.Millisecond)
					}
				})
			} else {
				io.WriteString(conn, sent)
			}
			if said, after := ends(t, conn, begun); after > 5500*time.Millisecond {
				t.Errorf("%q: it ended after %s with %q", sent, after, said)
			}
			conn.Close()
			dripping.Wait()
		})
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := inMemory(t, ok, silence)()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Fatal(err)
		}
		if _, after := ends(t, conn, time.Now()); after != 75*time.Second {
			t.Errorf("it was closed after %s", after)
		}
	})
}

// Threat 3: a megabyte of headers without an end was kept for each connection.
func TestLargeHeadersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		called := false
		conn := inMemory(t, func(http.ResponseWriter, *http.Request) { called = true }, silence)()
		took := make(chan int, 1)
		go func() {
			total, _ := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\nA: ")
			block := []byte(strings.Repeat("a", 1024))
			for {
				n, err := conn.Write(block)
				total += n
				if err != nil {
					took <- total
					return
				}
			}
		}()
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("answered %v, %v", response, err)
		}
		conn.Close()
		if n := <-took; n > httpserver.HeaderBytes+8<<10 {
			t.Errorf("%d bytes were read", n)
		}
		if called {
			t.Error("the handler was called")
		}
	})
}

func TestHeadersUpToTheLimitAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := inMemory(t, ok, silence)()
		go fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: h\r\nA: %s\r\n\r\n", strings.Repeat("a", httpserver.HeaderBytes-100))
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("answered %v, %v", response, err)
		}
	})
}

// Serve returns only when nobody is inside any more: what a handler writes to is about to be closed.
func TestServeJoinsItsHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		inside := make(chan struct{})
		var left atomic.Bool
		over := make(chan error, 1)
		go func() {
			over <- httpserver.Serve(ctx, p, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(inside)
				<-r.Context().Done()
				time.Sleep(3 * time.Second) // cleans up
				left.Store(true)
			}), silence)
		}()
		ours, theirs := net.Pipe()
		defer ours.Close()
		p.conns <- theirs
		io.WriteString(ours, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-inside
		begun := time.Now()
		cancel()
		err := <-over
		if took := time.Since(begun); err != nil || !left.Load() || took > 4*time.Second {
			t.Errorf("it returned %v after %s, the handler had left: %t", err, took, left.Load())
		}
	})
}

// A handler that ignores the end of its connection must not hold the program up.
func TestServeWaitsForNoHandlerForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		inside, release := make(chan struct{}), make(chan struct{})
		var logged records
		over := make(chan error, 1)
		go func() {
			over <- httpserver.Serve(ctx, p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				close(inside)
				<-release
			}), slog.New(&logged))
		}()
		ours, theirs := net.Pipe()
		defer ours.Close()
		p.conns <- theirs
		io.WriteString(ours, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-inside
		begun := time.Now()
		cancel()
		err := <-over
		if took := time.Since(begun); err != nil || took > 6*time.Second {
			t.Errorf("it returned %v after %s", err, took)
		}
		if text := logged.text(); !strings.Contains(text, "handler goes on") {
			t.Errorf("logged is %q", text)
		}
		close(release)
	})
}

// The listener's own end is an error: nobody asked for it.
func TestServeTellsWhyItsListenerFailed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := httpserver.Serve(t.Context(), listener, http.HandlerFunc(ok), silence); !errors.Is(err, net.ErrClosed) {
		t.Errorf("it returned %v", err)
	}
}

// After the end there is nobody to dial, and nothing open.
func TestServeClosesEverything(t *testing.T) {
	address, end, ended := serve(t, ok)
	var conns []net.Conn
	for range 10 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, conn := range conns {
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
			t.Error("a connection is still open")
		}
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("somebody still listens")
	}
}

// records keeps what is logged.
type records struct {
	mu       sync.Mutex
	messages []string
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }
func (r *records) Handle(_ context.Context, record slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, record.Message)
	return nil
}

func (r *records) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.messages, "\x00")
}

// Threat 31: net/http puts what a guest sent into messages that end up in somebody's terminal.
func TestMessagesOfNetHTTPAreQuoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged records
		conn := inMemory(t, func(_ http.ResponseWriter, r *http.Request) {
			panic("no way: " + r.URL.Path + strings.Repeat("x", 5000) + "\x1b[31m\n")
		}, slog.New(&logged))()
		fmt.Fprint(conn, "GET /%1b[31m HTTP/1.1\r\nHost: h\r\n\r\n")
		io.Copy(io.Discard, conn)
		fmt.Fprint(inMemory(t, ok, slog.New(&logged))(), "\x1b[31m\r\n\r\n")
		synctest.Wait()
		text := logged.text()
		if !strings.Contains(text, "no way") || !strings.HasPrefix(text, "http: ") {
			t.Errorf("logged is %q", text)
		}
		if strings.ContainsFunc(text, func(c rune) bool { return c > 0 && c < ' ' }) || len(text) > 5000 {
			t.Errorf("logged is %q", text)
		}
	})
}

// A guest can have net/http say the same thing any number of times: the log has it a few times, and a message
// of another kind all the same.
func TestMessagesOfNetHTTPDontFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged records
		dial := inMemory(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/twice" {
				w.WriteHeader(http.StatusOK)
				w.WriteHeader(http.StatusOK)
				return
			}
			panic("no way")
		}, slog.New(&logged))
		for range 100 {
			conn := dial()
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			io.Copy(io.Discard, conn)
		}
		conn := dial()
		fmt.Fprint(conn, "GET /twice HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		io.Copy(io.Discard, conn)
		synctest.Wait()
		text := logged.text()
		if panics, others := strings.Count(text, "no way"), strings.Count(text, "superfluous"); panics != 8 || others != 1 {
			t.Errorf("100 panics were logged %d times, and something else %d times: %q", panics, others, text)
		}
	})
}

// OPTIONS * goes to the handler as everything else does, and with it through every limit that there is.
func TestOptionsAreTheHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := inMemory(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, slog.New(slog.DiscardHandler))()
		if _, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if said, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 418 ") {
			t.Errorf("it was answered %q, %v", said, err)
		}
	})
}
