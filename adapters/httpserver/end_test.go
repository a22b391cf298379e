package httpserver_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/httpserver"
)

// serve serves handler, and returns the address and what ends it.
func serve(t *testing.T, handler http.HandlerFunc) (address string, end context.CancelFunc, ended <-chan error) {
	t.Helper()
	return serveWith(t, httpserver.Config{}, handler)
}

func serveWith(t *testing.T, config httpserver.Config, handler http.HandlerFunc) (address string, end context.CancelFunc, ended <-chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- config.Serve(ctx, listener, handler, slog.New(slog.DiscardHandler)) }()
	return listener.Addr().String(), cancel, over
}

// A guest of version 1 that reports its result, and sees the connection break before the answer, takes
// its host for one that never heard it, and tries fifteen times more.
func TestAnswerUnderWayGetsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, end := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() {
			over <- httpserver.Serve(ctx, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				end()                              // the host has what it waited for
				<-p.done                           // nobody listens any more
				time.Sleep(100 * time.Millisecond) // and the answer is written
				io.WriteString(w, "taken")
			}), silence)
		}()
		conn := p.dial(t)
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(response.Body); string(body) != "taken" {
			t.Errorf("the answer is %q, %v", body, err)
		}
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}

func TestEndWaitsForNobodyLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, end := context.WithCancel(t.Context())
		over := make(chan error, 1)
		inside := make(chan struct{})
		go func() {
			over <- httpserver.Serve(ctx, p, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(inside)
				<-r.Context().Done()
			}), silence)
		}()
		conn := p.dial(t)
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-inside
		begun := time.Now()
		end()
		if err := <-over; err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it took %s to end", took)
		}
		if said, err := io.ReadAll(conn); len(said) > 0 {
			t.Errorf("the request that never ends got an answer: %q, %v", said, err)
		}
	})
}
