package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/hexworker/metaservice/adapters/wire"
)

func TestServeAnswersToItsNames(t *testing.T) {
	for address, want := range map[string]string{
		"host.example:80": "host.example", ":80": "", "unix:/x": "", "[::1]:80": "::1", "nonsense": "",
	} {
		if got := hostOf(address); got != want {
			t.Errorf("%s has the host %q, not %q", address, got, want)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	serve := (&setting{inner: slog.New(slog.DiscardHandler)}).serveAs("host.example", "")
	go func() {
		served <- serve(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !wire.Answers(r.Context(), r.Host) {
				w.WriteHeader(http.StatusMisdirectedRequest)
			}
		}))
	}()
	for host, want := range map[string]int{"host.example": 200, "other.example": 421} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		conn.Close()
		if response.StatusCode != want {
			t.Errorf("%s got %s", host, response.Status)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
