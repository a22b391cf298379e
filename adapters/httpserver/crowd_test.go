package httpserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
)

// caller is a guest's connection in a bubble.
type caller struct {
	net.Conn
	answers chan int // statuses; closed with the connection
}

// call asks for a path on a connection.
func call(conn net.Conn, path string) *caller {
	c := &caller{conn, make(chan int, 100)}
	go func() {
		defer close(c.answers)
		from := bufio.NewReader(conn)
		for {
			response, err := http.ReadResponse(from, nil)
			if err != nil {
				return
			}
			response.Body.Close()
			c.answers <- response.StatusCode
		}
	}()
	c.ask(path)
	return c
}

func (c *caller) ask(path string) {
	go fmt.Fprintf(c.Conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path)
}

// state is what has become of what was asked last.
func (c *caller) state() string {
	synctest.Wait()
	select {
	case status, open := <-c.answers:
		if !open {
			return "closed"
		}
		return http.StatusText(status)
	default:
		return "waits"
	}
}

// streams answers /ok at once; /hold waits, and /claim too, whose connection is claimed, and /claimed is, too.
func streams(release <-chan struct{}) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/claim") {
			defer wire.Claim(r.Context())()
		}
		if r.URL.Path == "/hold" || r.URL.Path == "/claim" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	}
}

// callAll has so many connections ask, each after the one before was heard.
func callAll(dial func() net.Conn, path string, n int) []*caller {
	callers := make([]*caller, n)
	for i := range callers {
		callers[i] = call(dial(), path)
		synctest.Wait()
	}
	return callers
}

// Threat 16: a guest that opens ever more connections has 16 beside those that its host asked for; one more
// is let in when there is room.
func TestThreat16ConnectionsBeyondTheLimitWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged records
		release := make(chan struct{})
		dial := inMemory(t, streams(release), slog.New(&logged))
		claimed := callAll(dial, "/claim", 100)
		for _, c := range claimed {
			if got := c.state(); got != "waits" {
				t.Fatalf("a claimed one %s", got)
			}
		}
		held := callAll(dial, "/hold", httpserver.Unclaimed)
		late := call(dial(), "/ok") // it is accepted, and no more
		if got := late.state(); got != "waits" {
			t.Errorf("one too many: %s", got)
		}
		time.Sleep(time.Minute)
		if got := late.state(); got != "waits" {
			t.Errorf("one too many after a minute: %s", got)
		}
		held[3].Close()
		if got := late.state(); got != "OK" {
			t.Errorf("it was not let in when there was room: %s", got)
		}
		if text := logged.text(); strings.Count(text, "has to wait") != 1 {
			t.Errorf("logged is %q", text)
		}
		close(release)
	})
}

// What is idle makes room: the longest first. What the host asked for a moment ago isn't in the way.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := inMemory(t, streams(nil), silence)
		lately := callAll(dial, "/claimed", 30)
		idle := callAll(dial, "/ok", httpserver.Unclaimed)
		for _, c := range append(lately, idle...) {
			if got := c.state(); got != "OK" {
				t.Fatalf("answered: %s", got)
			}
		}
		idle[0].ask("/ok")
		if got := idle[0].state(); got != "OK" {
			t.Fatalf("answered: %s", got)
		}
		if got := call(dial(), "/ok").state(); got != "OK" {
			t.Errorf("one more: %s", got)
		}
		for i, c := range idle {
			want := "waits"
			if i == 1 {
				want = "closed"
			}
			if got := c.state(); got != want {
				t.Errorf("idle connection %d: %s, not %s", i, got, want)
			}
		}
		for _, c := range lately {
			if got := c.state(); got != "waits" {
				t.Errorf("one that was claimed: %s", got)
			}
		}
	})
}

// begin begins a request on a new connection, whose headers never end.
func begin(dial func() net.Conn) *caller {
	c := &caller{dial(), make(chan int, 1)}
	go func() {
		defer close(c.answers)
		io.WriteString(c.Conn, "GET /ok HTTP/1.1\r\n")
		io.Copy(io.Discard, c.Conn)
	}()
	synctest.Wait()
	return c
}

// Whose headers don't come holds up nobody else for longer than a second: the first of them makes room.
func TestSlowHeadersMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		dial := inMemory(t, streams(release), silence)
		held := callAll(dial, "/hold", httpserver.Unclaimed-3) // these have been heard, and aren't slow
		first := begin(dial)
		time.Sleep(time.Second / 2)
		silent, last := dial(), begin(dial)
		late := call(dial(), "/ok")
		if got := late.state(); got != "waits" {
			t.Errorf("one too many: %s", got)
		}
		time.Sleep(httpserver.CrowdedHeaderTimeout/2 - 1)
		if got := first.state(); got != "waits" {
			t.Errorf("it is cut too early: %s", got)
		}
		time.Sleep(time.Nanosecond)
		if first, late := first.state(), late.state(); first != "closed" || late != "OK" {
			t.Errorf("after %s the first: %s, the one that waits: %s", httpserver.CrowdedHeaderTimeout, first, late)
		}
		time.Sleep(2 * time.Second) // nobody waits, and there is all the time there ever was
		if got := last.state(); got != "waits" {
			t.Errorf("one that is in nobody's way: %s", got)
		}
		// Of those that are left one makes room at once: first the idle one, and then the silent one.
		for range 2 {
			if got := call(dial(), "/hold").state(); got != "waits" {
				t.Errorf("one more: %s", got)
			}
		}
		if got := late.state(); got != "closed" {
			t.Errorf("the idle one: %s", got)
		}
		if _, err := silent.Read(make([]byte, 1)); err == nil {
			t.Error("the silent one isn't cut")
		}
		for _, c := range held {
			if got := c.state(); got != "waits" {
				t.Errorf("one that was heard: %s", got)
			}
		}
		close(release)
	})
}

// Threats 16 and 27: a task that opens connection after connection has its guest's tools wait for their turn in the
// line, and for no more: what they prove to be theirs is kept, and asks again at once.
func TestThreat27ATaskThatHoldsTheDoorDoesNotLockTheToolsOut(t *testing.T) {
	const line = 64 // as many as a virtual machine's network has wait
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		dial := inMemory(t, streams(release), silence)
		stop := make(chan struct{})
		var flood sync.WaitGroup
		for i := range line {
			flood.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					conn := dial()
					if i%2 == 0 {
						fmt.Fprint(conn, "GET /ok HTTP/1.1\r\n")
					}
					io.Copy(io.Discard, conn)
				}
			})
		}
		time.Sleep(time.Minute)
		begun := time.Now()
		tools := call(dial(), "/claimed") // as what shows the token is
		if status := <-tools.answers; status != http.StatusOK {
			t.Fatalf("the tools got %d", status)
		}
		if took, most := time.Since(begun), (line/httpserver.Unclaimed+1)*httpserver.CrowdedHeaderTimeout; took > most {
			t.Errorf("the tools waited for %s, not %s", took, most)
		}
		for range 60 {
			time.Sleep(time.Second)
			tools.ask("/claimed")
			if got := tools.state(); got != "OK" {
				t.Fatalf("the tools ask again: %s", got)
			}
		}
		close(stop)
		flood.Wait()
	})
}

func TestTheMostConnectionsWhateverIsClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := inMemory(t, streams(nil), silence)
		all := callAll(dial, "/claim", httpserver.Connections)
		late := call(dial(), "/ok")
		if got := late.state(); got != "waits" {
			t.Errorf("beside %d that are claimed, one more: %s", len(all), got)
		}
		all[0].Close()
		if got := late.state(); got != "OK" {
			t.Errorf("it was not let in when there was room: %s", got)
		}
	})
}

// Threat 15: a guest that dials again and again gets so many connections a second. Those over which something
// goes that the host asked for don't count.
func TestThreat15ConnectionsAreAcceptedAtARate(t *testing.T) {
	for path, want := range map[string]time.Duration{
		"/ok":      (1000 - httpserver.AcceptBurst) * time.Second / httpserver.Accepts,
		"/claimed": 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			dial := inMemory(t, streams(nil), silence)
			begun := time.Now()
			for i := range 1000 {
				conn := dial()
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", path)
				if said, _ := ends(t, conn, begun); !strings.HasPrefix(said, "HTTP/1.1 200") {
					t.Fatalf("connection %d got %q", i, said)
				}
			}
			if took := time.Since(begun); took < want || took > want+time.Second {
				t.Errorf("1,000 connections for %s took %s, not %s", path, took, want)
			}
		})
	}
}

// A connection that is hijacked stays in the count for as long as it is claimed, and no longer.
func TestHijackedConnectionsCountUntilReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		releases := make(chan func(), httpserver.Connections)
		dial := inMemory(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ok" {
				return
			}
			release := wire.Claim(r.Context())
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			releases <- func() { conn.Close(); release(); release() }
		}, silence)
		all := callAll(dial, "/hijack", httpserver.Connections)
		late := call(dial(), "/ok")
		if got := late.state(); got != "waits" {
			t.Errorf("beside %d that are hijacked, one more: %s", len(all), got)
		}
		(<-releases)()
		if got := late.state(); got != "OK" {
			t.Errorf("it was not let in when there was room: %s", got)
		}
		for range httpserver.Connections - 1 {
			(<-releases)()
		}
	})
}

// The end finds whoever waits at the door.
func TestTheEndWhileAConnectionWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- httpserver.Serve(ctx, p, streams(nil), silence) }()
		for range httpserver.Unclaimed + 1 {
			ours, theirs := net.Pipe()
			defer ours.Close()
			p.conns <- theirs
			call(ours, "/hold")
		}
		synctest.Wait()
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}
