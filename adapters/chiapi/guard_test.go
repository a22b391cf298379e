package chiapi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
)

type endpoint struct{ method, path string }

// endpoints are all that there are, and one that isn't there.
var endpoints = []endpoint{
	{"GET", wire.PathExecute}, {"GET", wire.PathPoll}, {"GET", wire.PathPing}, {"POST", wire.PathLog},
	{"PUT", wire.PathSuccess}, {"PUT", wire.PathFailed}, {"POST", wire.PathReply + "?id=1"}, {"GET", wire.PathReply + "?id=1"},
	{"POST", wire.PathHello}, {"POST", wire.PathToken}, {"OPTIONS", wire.PathExecute}, {"GET", "/nothing"},
}

// Threat 30: what a browser or a proxy sends is none of a guest's tools', whatever it is for, and changes
// nothing.
func TestThreat30ForeignRequestsAreRefused(t *testing.T) {
	service, h := newService(t, func(c *host.Config) { c.Limits.RequestBurst = 1000 })
	for _, endpoint := range endpoints {
		for _, header := range [][2]string{
			{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Origin", "http://169.254.169.254"}, {"origin", ""},
			{"X-Forwarded-For", "1.2.3.4"}, {"x-forwarded-for", ""}, {"X-Forwarded-Host", "evil.example"},
			{"Forwarded", "for=1.2.3.4"}, {"Via", "1.1 proxy"}, {"VIA", "1.0 x"},
		} {
			what := fmt.Sprintf("%s %s with %s: %s", endpoint.method, endpoint.path, header[0], header[1])
			ask(t, h, endpoint.method, endpoint.path, "", header[0], header[1]).refused(t, what, domain.CodeForbidden)
		}
	}
	if service.Resolved() {
		t.Error("a request that was refused has resolved the task")
	}
}

// Threat 30: a server that knows its names has the endpoints refuse others'.
func TestThreat30OtherHostsRequestsAreMisdirected(t *testing.T) {
	_, h := newService(t, nil)
	named := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(wire.WithConn(r.Context(), wire.Conn{Answers: func(host string) bool { return host == "good" }})))
	})
	for _, endpoint := range endpoints {
		// httptest.NewRequest takes the host of an absolute URL, as net/http does.
		message := ask(t, named, endpoint.method, "http://evil.example"+endpoint.path, "").refused(t, endpoint.path, domain.CodeMisdirectedRequest)
		if !strings.Contains(message, `"evil.example"`) {
			t.Errorf("it says %q", message)
		}
	}
	ask(t, named, "GET", "http://good"+wire.PathPing, "").fine(t, "the host's own name")
	ask(t, h, "GET", "http://evil.example"+wire.PathPing, "").fine(t, "a server that has no names")
}

// limited is a service whose guest has 10 requests, and then one a second.
func limited(c *host.Config) { c.Limits.Requests, c.Limits.RequestBurst = 1, 10 }

// Threat 15: a guest that asks too often is refused for now, and held, and heard again later. It is told once
// what to do, its host's log a few times, and neither more.
func TestThreat15TooManyRequestsAreRefusedForNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		_, h := newService(t, func(c *host.Config) {
			limited(c)
			c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		})
		dial := serve(t, h)
		others := slices.DeleteFunc(slices.Clone(endpoints), func(e endpoint) bool { return e.path == wire.PathLog })
		for _, endpoint := range append(others, endpoints[2]) {
			for range 10 {
				ask(t, h, "GET", wire.PathPing, "").fine(t, "a ping")
			}
			conn := dial()
			begun := time.Now()
			// The next one is on the way already, as of somebody who never looks at an answer.
			go fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\nGET %s HTTP/1.1\r\nHost: h\r\n\r\n",
				endpoint.method, endpoint.path, wire.PathPing)
			from := bufio.NewReader(conn)
			response, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != http.StatusServiceUnavailable || !response.Close ||
				response.Header.Get("Retry-After") != "1" || !strings.Contains(string(body), `"TooManyRequests"`) {
				t.Errorf("%s %s: %s %v %s %v", endpoint.method, endpoint.path, response.Status, response.Header, body, err)
			}
			if took := time.Since(begun); took > 0 {
				t.Errorf("%s: it was told after %s", endpoint.path, took)
			}
			rest, err := io.ReadAll(from)
			if took := time.Since(begun); len(rest) > 0 || err != nil || took != chiapi.RefusedHold {
				t.Errorf("%s: after %s came %q, %v", endpoint.path, took, rest, err)
			}
			time.Sleep(time.Minute)
		}
		if lines := strings.Count(logged.String(), "limits Requests and RequestBurst"); lines != 5 {
			t.Errorf("%d refusals were logged %d times:\n%s", len(endpoints), lines, logged.String())
		}
		if !strings.Contains(logged.String(), "time=8") {
			t.Errorf("the log has no count:\n%s", logged.String())
		}
	})
}

// Whoever takes the answer and hangs up costs nothing more.
func TestThreat15WhoHangsUpIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newService(t, limited)
		dial := serve(t, h)
		for _, path := range []string{wire.PathExecute, "/nothing", wire.PathPoll} {
			conn, begun := dial(), time.Now()
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path) // and a pipe has no room for an answer
			want := 40 * time.Second
			if path == wire.PathPoll {
				want += domain.Defaults().Hold
			}
			fmt.Fprint(conn, "more than anybody reads before the answer is out")
			if took := time.Since(begun); took != want {
				t.Errorf("%s held its connection for %s, not %s", path, took, want)
			}
			// A connection that is read has no deadline left.
			reader := dial()
			for range 2 {
				fmt.Fprintf(reader, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathExecute)
				if a, err := readAnswer(reader); err != nil || a.Code != http.StatusOK {
					t.Errorf("it got %v, %v", a, err)
				}
				time.Sleep(time.Minute)
			}
		}
	})
}
