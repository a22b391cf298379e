package proxies_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hexworker/metaservice/adapters/proxies"
	"github.com/hexworker/metaservice/adapters/wire"
)

// A server that counts its connections counts a proxy's by itself: for as long as its handler runs, and one
// that is hijacked until it is closed.
func TestProxiesClaimTheirConnections(t *testing.T) {
	var claims atomic.Int32
	kept := make(chan net.Conn, 1)
	h := proxies.New(told("api"), map[string]http.Handler{"p": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if claims.Load() == 0 {
			t.Error("a proxy is called before its connection is claimed")
		}
		if r.URL.Path == "/keep" {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
			}
			kept <- conn
		}
		if r.URL.Path == "/cant" {
			w = struct{ http.ResponseWriter }{w}
			if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("it hijacked: %v", err)
			}
		}
	})}, make(chan struct{}))
	handled := make(chan struct{}, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { handled <- struct{}{} }()
		h.ServeHTTP(w, r)
	}))
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return wire.WithConn(ctx, wire.Conn{Claim: func() func() {
			claims.Add(1)
			return sync.OnceFunc(func() { claims.Add(-1) })
		}})
	}
	server.Start()
	defer server.Close()
	for _, path := range []string{"/p/", "/p/cant", "/engine/v1/ping"} {
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		<-handled
	}
	if n := claims.Load(); n != 0 {
		t.Errorf("%d claims are left of those that have ended", n)
	}
	go http.Get(server.URL + "/p/keep")
	conn := <-kept
	<-handled // and the connection goes on
	if n := claims.Load(); n != 1 {
		t.Errorf("the hijacked connection has %d claims", n)
	}
	conn.Close()
	conn.Close()
	if n := claims.Load(); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}
