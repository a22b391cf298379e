package httpserver_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
)

// Threat 30: a name that somebody else owns can be made to lead here, while a browser takes what it gets for
// that name's own.
func TestThreat30NamesThatAreNotTheHosts(t *testing.T) {
	address, end, ended := serveWith(t, httpserver.Config{Hosts: []string{"Meta.Example.", "other.example"}},
		func(w http.ResponseWriter, r *http.Request) {
			if !wire.Answers(r.Context(), r.Host) {
				w.WriteHeader(http.StatusMisdirectedRequest)
			}
		})
	for host, want := range map[string]bool{
		"169.254.169.254":        true,
		"169.254.169.254:80":     true,
		"127.0.0.1:8080":         true,
		"10.0.2.2:1":             true,
		"[::1]":                  true,
		"[fe80::1]:80":           true,
		"localhost":              true,
		"localhost:1234":         true,
		"metaservice":            true,
		"my-host_2:80":           true,
		"meta.example":           true,
		"META.EXAMPLE.:80":       true,
		"other.example:1":        true,
		"":                       false,
		":80":                    false,
		"evil.example":           false,
		"evil.example:80":        false,
		"evil.example.":          false,
		"evil.":                  false,
		".":                      false,
		"meta.example.evil":      false,
		"x.meta.example":         false,
		"localhost.evil.example": false,
		"169.254.169.254.nip.io": false,
		"127.0.0.1.evil.example": false,
		"1.2.3":                  false,
		"[evil.example]:80":      false,
		"[::1.evil.example]":     false,
		"a:b:c":                  false,
		"xn--bcher-kva.example":  false,
		"caf%c3%a9":              false,
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v", host, err)
		}
		response.Body.Close()
		// net/http itself refuses what no host can be called.
		if got := response.StatusCode == http.StatusOK; got != want {
			t.Errorf("%q: %s", host, response.Status)
		}
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
