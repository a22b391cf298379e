package httpserver_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
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
	var end context.CancelFunc
	ready := make(chan struct{})
	var address string
	var ended <-chan error
	address, end, ended = serve(t, func(w http.ResponseWriter, r *http.Request) {
		<-ready
		end() // the host has what it waited for
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			conn, err := net.Dial("tcp", address)
			if err != nil { // nobody listens any more
				break
			}
			conn.Close()
		}
		io.WriteString(w, "taken")
	})
	close(ready)
	response, err := http.Get("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); string(body) != "taken" {
		t.Errorf("the answer is %q, %v", body, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestEndWaitsForNobodyLong(t *testing.T) {
	inside := make(chan struct{})
	address, end, ended := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
	})
	asked := make(chan error, 1)
	go func() {
		response, err := http.Get("http://" + address)
		if err == nil {
			response.Body.Close()
		}
		asked <- err
	}()
	<-inside
	begun := time.Now()
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s to end", took)
	}
	if err := <-asked; err == nil {
		t.Error("the request that never ends got an answer")
	}
}
