package httpserver_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/httpserver"
)

// hijacking is a handler that takes its connection, and keeps it until its request's context ends: the way a
// shell does. Then it says why, and hangs up.
func hijacking(t *testing.T, taken chan<- struct{}, words time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		taken <- struct{}{}
		<-r.Context().Done()
		time.Sleep(words)
		if _, err := io.WriteString(conn, context.Cause(r.Context()).Error()); err != nil {
			t.Error(err)
		}
	}
}

// net/http neither closes a connection that was hijacked nor ends its request's context: a shell outlived
// the server that it came by, and Serve gave up waiting for its handler.
func TestTheEndOfServeEndsHijackedConnections(t *testing.T) {
	for name, end := range map[string]func(*pipes, context.CancelFunc){
		"ctx ends":          func(_ *pipes, cancel context.CancelFunc) { cancel() },
		"the listener ends": func(p *pipes, _ context.CancelFunc) { p.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				taken, over := make(chan struct{}), make(chan struct{})
				go func() {
					err := httpserver.Serve(ctx, p, hijacking(t, taken, time.Second), silence)
					if (err == nil) != (name == "ctx ends") {
						t.Errorf("Serve: %v", err)
					}
					close(over)
				}()
				ours, theirs := net.Pipe()
				defer ours.Close()
				p.conns <- theirs
				io.WriteString(ours, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
				<-taken
				time.Sleep(time.Hour) // it has no limit of its own
				select {
				case <-over:
					t.Fatal("Serve has returned")
				default:
				}
				began := time.Now()
				end(p, cancel)
				said, err := io.ReadAll(ours)
				if err != nil || !strings.Contains(string(said), "the server has ended") {
					t.Errorf("the handler said %q, %v", said, err)
				}
				<-over
				if took := time.Since(began); took != time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// A request that is being answered still has its last words, though a connection was hijacked.
func TestAHijackedConnectionCutsNobodysLastWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		taken, over := make(chan struct{}), make(chan error, 1)
		hijack := hijacking(t, taken, 0)
		go func() {
			over <- httpserver.Serve(ctx, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/shell" {
					hijack(w, r)
					return
				}
				taken <- struct{}{}
				time.Sleep(100 * time.Millisecond)
				if r.Context().Err() != nil {
					t.Error("its context has ended")
				}
				io.WriteString(w, "taken")
			}), silence)
		}()
		var conns []net.Conn
		for _, path := range []string{"/shell", "/"} {
			ours, theirs := net.Pipe()
			defer ours.Close()
			p.conns <- theirs
			io.WriteString(ours, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
			<-taken
			conns = append(conns, ours)
		}
		cancel()
		go io.Copy(io.Discard, conns[0])
		if answer, err := io.ReadAll(conns[1]); err != nil || !strings.HasSuffix(string(answer), "taken") {
			t.Errorf("the answer is %q, %v", answer, err)
		}
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}
