//go:build unix

package httpserver_test

import (
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
)

// What is on the way to a handler, or nothing, is no end; and looking takes nothing away.
func TestHandlersSeeWhetherTheGuestHasHungUp(t *testing.T) {
	for name, test := range map[string]struct {
		act  func(*net.TCPConn)
		want bool
	}{
		"silent":      {func(*net.TCPConn) {}, false},
		"pipelining":  {pipeline, false},
		"half closed": {func(conn *net.TCPConn) { conn.CloseWrite() }, true},
		"closed":      {func(conn *net.TCPConn) { conn.Close() }, true},
		"reset":       {func(conn *net.TCPConn) { conn.SetLinger(0); conn.Close() }, true},

		"half closed after pipelining": {func(conn *net.TCPConn) { pipeline(conn); conn.CloseWrite() }, true},
		"closed after pipelining":      {func(conn *net.TCPConn) { pipeline(conn); conn.Close() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasSuffix(name, "after pipelining") && runtime.GOOS != "linux" {
				t.Skip("elsewhere an end isn't seen behind what is still to be read")
			}
			inside, acted := make(chan struct{}), make(chan struct{})
			saw := make(chan bool, 1)
			address, end, ended := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/next" {
					return
				}
				close(inside)
				<-acted
				hungUp := false
				for deadline := time.Now().Add(20 * time.Second); !hungUp && time.Now().Before(deadline); {
					if hungUp = wire.HungUp(r.Context()); !test.want {
						break
					}
				}
				saw <- hungUp
			})
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			<-inside
			test.act(conn.(*net.TCPConn))
			close(acted)
			if got := <-saw; got != test.want {
				t.Errorf("hung up: %t", got)
			}
			end()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// pipeline sends further requests, which nobody reads for now.
func pipeline(conn *net.TCPConn) {
	fmt.Fprint(conn, strings.Repeat("GET /next HTTP/1.1\r\nHost: h\r\n\r\n", 10))
}
