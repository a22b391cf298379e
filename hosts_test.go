package metaservice_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hexworker/metaservice"
)

// Threat 30: Serve goes by its own names alone; in somebody's own server, that decides.
func TestServeGoesByItsNames(t *testing.T) {
	service := metaservice.New([]string{"true"}, nil, nil, nil, &metaservice.Environment{Hosts: []string{"host.example"}})
	defer service.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- service.Serve(ctx, listener) }()
	for host, want := range map[string]int{
		"host.example": http.StatusOK, "169.254.169.254": http.StatusOK, listener.Addr().String(): http.StatusOK,
		"localhost:80": http.StatusOK, "evil.example": http.StatusMisdirectedRequest,
	} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /engine/v1/ping HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		conn.Close()
		if response.StatusCode != want {
			t.Errorf("%s got %s", host, response.Status)
		}
		recorder := httptest.NewRecorder()
		service.ServeHTTP(recorder, httptest.NewRequest("GET", "http://"+host+"/engine/v1/ping", nil))
		if recorder.Code != http.StatusOK {
			t.Errorf("without a server of ours %s got %d", host, recorder.Code)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
