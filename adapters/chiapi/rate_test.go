package chiapi_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
)

// useUp uses up all requests that a limited guest has.
func useUp(t *testing.T, h http.Handler) {
	t.Helper()
	for range 10 {
		ask(t, h, "GET", wire.PathPing, "").fine(t, "a ping")
	}
}

// Threat 15's other side: a reply that the host waits for was refused where its guest had made all the requests that
// it may, and so was the poll for what it is to answer. Each action lets in one of either, and nothing else.
func TestThreat15WhatTheHostAskedForIsTakenBeyondTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service, h := newService(t, limited)
		useUp(t, h)
		tooMany := func(what, method, path string, header ...string) {
			t.Helper()
			ask(t, h, method, path, "content", header...).refused(t, what, domain.CodeTooManyRequests)
			useUpOne(t, h)
		}
		tooMany("a poll for nothing", "GET", wire.PathPoll)
		first, second := fetch(t.Context(), t, service), fetch(t.Context(), t, service)
		synctest.Wait()
		tooMany("a foreign poll", "GET", wire.PathPoll, "Via", "x")
		one, two := take(t, h).ID(), take(t, h).ID()
		tooMany("a third poll for two actions", "GET", wire.PathPoll)
		tooMany("a guess", "POST", replyTo("guess"))
		tooMany("a wrong method", "GET", replyTo(one))
		tooMany("a handshake for a file", "GET", replyTo(one), "Connection", "Upgrade", "Upgrade", "websocket",
			"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
		tooMany("a foreign reply", "POST", replyTo(one), "Origin", "x")
		for _, id := range []domain.ActionID{one, two} {
			ask(t, h, "POST", replyTo(id), "content").fine(t, "a reply")
			tooMany("the reply again", "POST", replyTo(id))
		}
		for _, got := range []<-chan fetched{first, second} {
			if file := <-got; file.content != "content" || file.err != nil {
				t.Errorf("the file is %q, %v", file.content, file.err)
			}
		}
		tooMany("a ping after it all", "GET", wire.PathPing)
	})
}

// useUpOne uses up the request that a limited guest has back a second later, for which whoever is refused is held.
func useUpOne(t *testing.T, h http.Handler) {
	t.Helper()
	ask(t, h, "GET", wire.PathPing, "").fine(t, "a ping")
}

// Each action lets one poll in, be it however often that hangs up with nothing: else who does would be past the rate.
func TestThreat15APollThatHangsUpIsLetInOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service, h := newService(t, limited)
		useUp(t, h)
		done := fetch(t.Context(), t, service)
		synctest.Wait()
		for i, want := range []int{http.StatusOK, http.StatusServiceUnavailable} {
			r := httptest.NewRequestWithContext(wire.WithConn(t.Context(), wire.Conn{HungUp: func() bool { return true }}), "GET", wire.PathPoll, nil)
			w, hungUp := httptest.NewRecorder(), false
			func() {
				defer func() { hungUp = recover() != nil }()
				h.ServeHTTP(w, r)
			}()
			if hungUp != (want == http.StatusOK) || w.Code != want {
				t.Errorf("poll %d: %d, hung up: %t", i, w.Code, hungUp)
			}
		}
		service.Close()
		<-done
	})
}

// Of many replies at once that all find the id good, one is let in: the others would be past the rate.
func TestThreat15OfManyRepliesAtOnceOneIsLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service, h := newService(t, limited)
		done := fetch(t.Context(), t, service)
		synctest.Wait()
		id := take(t, h).ID()
		useUp(t, h)
		if !service.EnterReply(id) || service.EnterReply(id) {
			t.Error("it isn't let in, or lets in twice")
		}
		ask(t, h, "POST", replyTo(id), "content").refused(t, "the second at once", domain.CodeTooManyRequests)
		ask(t, h, "POST", replyTo(id), "content").fine(t, "one that is none too many")
		if file := <-done; file.err != nil {
			t.Error(file.err)
		}
	})
}

// Threats 15 and 27: who doesn't have the token uses up none of what the tools are let in with.
func TestThreat15StrangersAreLetInForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service, h, token := limitedTools(t)
		right := []string{"Authorization", "Bearer " + token}
		for range 10 {
			ask(t, h, "GET", wire.PathPing, "", right...).fine(t, "a ping")
			ask(t, h, "GET", wire.PathPing, "").refused(t, "a stranger's ping", domain.CodeUnauthorized)
		}
		done := fetch(t.Context(), t, service)
		synctest.Wait()
		poll := func(header ...string) answer { return ask(t, h, "GET", wire.PathPoll, "", header...) }
		poll().refused(t, "a stranger's poll", domain.CodeTooManyRequests)
		ask(t, h, "GET", wire.PathPing, "", right...).fine(t, "the one that came back")
		a := poll(right...)
		a.fine(t, "the tools' poll")
		action, err := wire.DecodeAction(a.Body.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		ask(t, h, "GET", wire.PathPing, "").refused(t, "the one that came back", domain.CodeUnauthorized)
		ask(t, h, "POST", replyTo(action.ID()), "content").refused(t, "a stranger's reply", domain.CodeTooManyRequests)
		ask(t, h, "GET", wire.PathPing, "", right...).fine(t, "the one that came back")
		ask(t, h, "POST", replyTo(action.ID()), "content", right...).fine(t, "the tools' reply")
		if file := <-done; file.err != nil || file.content != "content" {
			t.Errorf("the file is %q, %v", file.content, file.err)
		}
	})
}

// A log that is one too many was refused, and what its guest had sent by then was lost. It waits for its turn, and
// leaves to others what they have.
func TestALogWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged, sink bytes.Buffer
		service, h := newService(t, func(c *host.Config) {
			limited(c)
			c.Log, c.Logger = &sink, slog.New(slog.NewTextHandler(&logged, nil))
		})
		begun := time.Now()
		var all sync.WaitGroup
		for i := range 15 {
			all.Go(func() {
				ask(t, h, "POST", wire.PathLog, strings.Repeat("x", 100<<10)).fine(t, "a log")
				if took, want := time.Since(begun), time.Duration(max(i-9, 0))*time.Second; took != want {
					t.Errorf("log %d had its turn after %s, not %s", i, took, want)
				}
			})
			synctest.Wait()
		}
		useUp(t, h)
		ask(t, h, "POST", wire.PathLog, "x").refused(t, "one that would wait for too long", domain.CodeTooManyRequests)
		all.Wait()
		if logged.Len() == 0 || strings.Count(logged.String(), "limits Requests") != 1 {
			t.Errorf("the log says %s", &logged)
		}
		if sink.Len() != 15*100<<10 {
			t.Errorf("the sink has %d bytes", sink.Len())
		}
		for range 2 {
			go ask(t, h, "POST", wire.PathLog, "x")
		}
		synctest.Wait()
		service.Close() // and who waits doesn't hold it up
	})
}

// limitedTools is a limited service whose tools have the token.
func limitedTools(t *testing.T) (*host.Service, http.Handler, string) {
	t.Helper()
	service, h := newService(t, func(c *host.Config) { limited(c); c.Token = domain.TokenRequired })
	a := ask(t, h, "POST", wire.PathToken, "")
	a.fine(t, "the token")
	token, err := wire.DecodeToken(a.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute) // and all may be asked again
	return service, h, token.Reveal()
}
