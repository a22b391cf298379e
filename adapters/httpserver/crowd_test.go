package httpserver_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/httpserver"
)

// A guest that opens ever more connections has no more than so many, and those work.
func TestTooManyConnectionsAreClosed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- httpserver.Serve(ctx, listener, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	}()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	// ask makes one request, and tells whether it was answered.
	ask := func(conn net.Conn) bool {
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return false
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatal("a connection was neither answered nor closed")
			}
			return false
		}
		response.Body.Close()
		return true
	}
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	var all []net.Conn
	for range httpserver.Connections {
		conn := dial()
		if !ask(conn) {
			t.Fatalf("connection %d was not served", len(all))
		}
		all = append(all, conn)
	}
	for range 20 {
		if ask(dial()) {
			t.Fatal("a connection too many was served")
		}
	}
	for _, conn := range all[:10] {
		if !ask(conn) {
			t.Error("a connection that was served before is not served any more")
		}
		conn.Close()
	}
	deadline := time.Now().Add(20 * time.Second)
	for !ask(dial()) {
		if time.Now().After(deadline) {
			t.Fatal("the place of a closed connection is not given back")
		}
	}
}
