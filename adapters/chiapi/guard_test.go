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
		ended := make(chan time.Time, 1)
		dial := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			ended <- time.Now()
		}))
		for range 10 {
			ask(t, h, "GET", wire.PathPing, "").fine(t, "a ping")
		}
		conn := dial()
		go fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathPing)
		begun := time.Now()
		if a, err := readAnswer(conn); err != nil || a.Code != http.StatusServiceUnavailable {
			t.Fatalf("%v, %v", a, err)
		}
		conn.Close()
		if took := (<-ended).Sub(begun); took != 0 {
			t.Errorf("it was held for %s", took)
		}
	})
}

// Threat 15: what the host asked for doesn't count, be it however much: neither the reply nor the poll that
// brought the action.
func TestThreat15RepliesAndTheirPollsAreFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service, h := newService(t, limited)
		for i := range 1000 {
			var done <-chan fetched
			var list <-chan listed
			switch i % 4 {
			case 0, 1, 2:
				done = fetch(t.Context(), t, service)
			case 3:
				list = folder(t.Context(), service)
			}
			synctest.Wait()
			id := take(t, h).ID()
			switch i % 4 {
			case 0:
				ask(t, h, "POST", replyTo(id), "content").fine(t, "a file")
			case 1:
				ask(t, h, "POST", replyTo(id), "").fine(t, "an empty file")
			case 2:
				ask(t, h, "POST", replyTo(id), "", wire.HeaderError, wire.FileNotFound).fine(t, "no file")
			case 3:
				ask(t, h, "POST", replyTo(id), `{"files":[],"notFound":false}`, "Content-Type", wire.TypeJSON).fine(t, "a list")
			}
			if done != nil {
				<-done
			} else {
				<-list
			}
		}
	})
}

// Threat 15, and 14: a reply that answers nothing counts, and so does one that doesn't use its id up.
func TestThreat15WhatIsNoReplyCounts(t *testing.T) {
	for name, request := range map[string]func(t *testing.T, h http.Handler, id domain.ActionID) answer{
		"a guess": func(t *testing.T, h http.Handler, _ domain.ActionID) answer {
			return ask(t, h, "POST", replyTo("guess"), "")
		},
		"a wrong method": func(t *testing.T, h http.Handler, id domain.ActionID) answer {
			return ask(t, h, "GET", replyTo(id), "")
		},
		"an empty poll": func(t *testing.T, h http.Handler, _ domain.ActionID) answer {
			return ask(t, h, "GET", wire.PathPoll, "")
		},
		"a foreign one": func(t *testing.T, h http.Handler, _ domain.ActionID) answer {
			return ask(t, h, "GET", wire.PathPing, "", "Via", "x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service, h := newService(t, func(c *host.Config) { limited(c); c.Limits.Hold = 1 })
				done := fetch(t.Context(), t, service)
				synctest.Wait()
				id := take(t, h).ID()
				for i := range 10 {
					if a := request(t, h, id); a.Code == http.StatusServiceUnavailable {
						t.Fatalf("request %d was refused", i)
					}
				}
				if a := request(t, h, id); a.Code != http.StatusServiceUnavailable {
					t.Errorf("one too many got %d", a.Code)
				}
				service.Close()
				<-done
			})
		})
	}
}

// Threats 15 and 27: a task that floods its host doesn't lock the guest's tools out, who show their token.
func TestThreat15ATaskDoesNotUseUpWhatItsToolsHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, token := limitedTools(t)
		refusals := 0
		for range 100 {
			if ask(t, h, "GET", wire.PathPing, "").Code == http.StatusServiceUnavailable {
				refusals++
			}
		}
		if refusals < 40 { // each is held for a second, in which another one comes to be had
			t.Errorf("%d of 100 requests without the token were refused as too many", refusals)
		}
		for range 10 {
			ask(t, h, "GET", wire.PathPing, "", wire.HeaderAuthorization, "Bearer "+token).fine(t, "with the token")
		}
		ask(t, h, "GET", wire.PathPing, "", wire.HeaderAuthorization, "Bearer "+token).refused(t, "the tools' own limit", domain.CodeTooManyRequests)
	})
}

// The connection of what the host asked for, and of a log, is claimed as long as it lasts; nothing else is.
func TestWhatClaimsItsConnection(t *testing.T) {
	service, h := newService(t, nil)
	claims, open := 0, 0
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(wire.WithConn(r.Context(), wire.Conn{Claim: func() func() {
			claims++
			open++
			return func() { open-- }
		}})))
	})
	claimed := func(what string, want int) {
		t.Helper()
		if claims != want || open != 0 {
			t.Errorf("%s: %d claims, of which %d are left", what, claims, open)
		}
		claims = 0
	}
	ask(t, counted, "GET", wire.PathPing, "")
	claimed("a ping", 0)
	ask(t, counted, "POST", replyTo("guess"), "content")
	claimed("a guess", 0)
	ask(t, counted, "POST", wire.PathLog, "log")
	claimed("a log", 1)
	done := fetch(t.Context(), t, service)
	id := take(t, counted).ID()
	claimed("a poll that brought an action", 1)
	ask(t, counted, "GET", replyTo(id), "")
	claimed("a wrong method", 0)
	ask(t, counted, "POST", replyTo(id), "content")
	claimed("a reply", 1)
	ask(t, counted, "POST", replyTo(id), "content")
	claimed("the reply again", 0)
	<-done
}

// A task that holds all connections which nobody claims must not keep those out that show the token.
func TestWhatShowsTheTokenClaimsItsConnection(t *testing.T) {
	_, h, token := taken(t)
	claims := 0
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before := claims
		h.ServeHTTP(w, r.WithContext(wire.WithConn(r.Context(), wire.Conn{Claim: func() func() {
			claims++
			return func() { claims += 10 }
		}})))
		if claims != before && claims != before+11 {
			t.Errorf("%s is claimed and released by %d", r.URL.Path, claims-before)
		}
	})
	for _, endpoint := range endpoints {
		if endpoint.path == wire.PathPoll {
			continue // which hangs
		}
		for shown, want := range map[string]int{"Bearer " + token: 11, "Bearer x": 0, "": 0} {
			claims = 0
			ask(t, counted, endpoint.method, endpoint.path, "", "Authorization", shown)
			if claims != want {
				t.Errorf("%s %s with %q: %d", endpoint.method, endpoint.path, shown, claims)
			}
		}
	}
	claims = 0
	ask(t, counted, "GET", wire.PathPing, "", "Authorization", "Bearer "+token, "Via", "x")
	if claims != 0 {
		t.Error("a foreign request is claimed")
	}
}

// Who never reads an answer held its connection for ever: sixteen of those were all that a guest may have.
func TestThreat16AnswersThatNobodyReadsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newService(t, nil)
		ended := make(chan time.Time, 1)
		dial := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() { ended <- time.Now() }()
			h.ServeHTTP(w, r)
		}))
		for _, path := range []string{wire.PathExecute, "/nothing", wire.PathPoll} {
			conn, begun := dial(), time.Now()
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path) // and a pipe has no room for an answer
			want := 40 * time.Second
			if path == wire.PathPoll {
				want += domain.Defaults().Hold
			}
			if took := (<-ended).Sub(begun); took != want {
				t.Errorf("%s took %s, not %s", path, took, want)
			}
			// A connection that is read has no deadline left.
			reader := dial()
			for range 2 {
				fmt.Fprintf(reader, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathExecute)
				if a, err := readAnswer(reader); err != nil || a.Code != http.StatusOK {
					t.Errorf("it got %v, %v", a, err)
				}
				<-ended
				time.Sleep(time.Minute)
			}
		}
	})
}
