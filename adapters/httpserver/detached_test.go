package httpserver_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
)

// detaching answers /rest from a connection that it has detached, once release says so; all else at once.
func detaching(t *testing.T, release <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/rest" {
			io.WriteString(w, r.URL.Path)
			return
		}
		conn, err := wire.Detach(w, r)
		if err != nil {
			t.Errorf("it can't be detached: %v", err)
			return
		}
		woken := make(chan struct{})
		go func() {
			select {
			case <-release:
				conn.Wake()
			case <-woken:
			}
		}()
		go func() {
			defer conn.Close()
			err := conn.Await()
			close(woken)
			if err != nil {
				return
			}
			conn.Header().Set("Content-Length", "6")
			io.WriteString(conn, "rested")
			conn.Resume()
		}()
	}
}

// client reads the answers on one connection.
type client struct {
	t *testing.T
	net.Conn
	from *bufio.Reader
}

func newClient(t *testing.T, conn net.Conn) *client { return &client{t, conn, bufio.NewReader(conn)} }

func (c *client) ask(paths ...string) {
	var all strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&all, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path)
	}
	go io.WriteString(c.Conn, all.String()) // a pipe takes no more than is read
}

// hears reads the next answer, which must be this.
func (c *client) hears(want string) {
	c.t.Helper()
	response, err := http.ReadResponse(c.from, nil)
	if err != nil {
		c.t.Errorf("in place of %q: %v", want, err)
		return
	}
	defer response.Body.Close()
	if got, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK || string(got) != want {
		c.t.Errorf("the answer is %s %q, %v, not %q", response.Status, got, err, want)
	}
	if response.Header.Get("Date") == "" {
		c.t.Error("it has no date")
	}
}

func TestADetachedConnectionGoesOn(t *testing.T) {
	for name, test := range map[string]struct {
		before, after []string // requests that are sent before the answer, and after it
	}{
		"the next request comes later":           {[]string{"/rest"}, []string{"/a"}},
		"much later":                             {[]string{"/rest"}, []string{"/a", "/b"}},
		"it comes before the answer":             {[]string{"/rest", "/a"}, nil},
		"several come":                           {[]string{"/rest", "/a", "/b"}, []string{"/c"}},
		"the next one is detached, too":          {[]string{"/rest"}, []string{"/rest", "/a"}},
		"the next one is, and is there before":   {[]string{"/rest", "/rest", "/a"}, nil},
		"it isn't the first one that is":         {[]string{"/a", "/rest", "/b"}, []string{"/rest"}},
		"the last thing that it is asked before": {[]string{"/a", "/rest"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				c := newClient(t, inMemory(t, detaching(t, release), silence)())
				c.ask(test.before...)
				go func() {
					time.Sleep(time.Minute) // longer than any limit on requests
					close(release)
				}()
				begun := time.Now()
				for i, path := range append(test.before, test.after...) {
					if i == len(test.before) {
						time.Sleep(httpserver.IdleTimeout - time.Second)
						c.ask(test.after...)
					}
					if path == "/rest" {
						path = "rested"
					}
					c.hears(path)
				}
				if took := time.Since(begun); took < time.Minute {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// An empty line behind a body comes from old clients, and net/http lets it pass. It takes a request on a connection that it
// has back for the first one, though, which none may come before.
func TestEmptyLinesBeforeTheNextRequest(t *testing.T) {
	for name, test := range map[string]struct {
		before, after string // the answer
		want          bool
	}{
		"there before the answer":    {"\r\n", "GET /a HTTP/1.1\r\nHost: h\r\n\r\n", true},
		"after it":                   {"", "\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", true},
		"all before it":              {"\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", "", true},
		"a part of it":               {"\r", "\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", true},
		"more than anybody's":        {"", "\r\n\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", false},
		"nothing but such, for long": {"", strings.Repeat("\r\n", 100_000), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				c := newClient(t, inMemory(t, detaching(t, release), silence)())
				go io.WriteString(c.Conn, "GET /rest HTTP/1.1\r\nHost: h\r\n\r\n"+test.before)
				time.Sleep(time.Second)
				close(release)
				c.hears("rested")
				go io.WriteString(c.Conn, test.after)
				if test.want {
					c.hears("/a")
					return
				}
				if response, err := http.ReadResponse(c.from, nil); err == nil && response.StatusCode != http.StatusBadRequest {
					t.Errorf("it is answered: %s", response.Status)
				}
			})
		})
	}
}

// gVisor's connections tell of a deadline in their own words, which wrap no os.ErrDeadlineExceeded. Each poll of a guest in
// a virtual machine was hung up on when it was to be answered.
func TestADetachedConnectionIsWokenThatHasItsOwnTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		release := make(chan struct{})
		go func() { over <- httpserver.Serve(ctx, p, detaching(t, release), silence) }()
		ours, theirs := net.Pipe()
		defer ours.Close()
		p.conns <- ownTimeouts{theirs}
		c := newClient(t, ours)
		c.ask("/rest")
		time.Sleep(time.Minute)
		close(release)
		c.hears("rested")
		c.ask("/a")
		c.hears("/a")
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}

// ownTimeouts tells of deadlines as gVisor's connections do.
type ownTimeouts struct{ net.Conn }

func (c ownTimeouts) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = &net.OpError{Op: "read", Net: "tcp", Err: ownTimeout{}}
	}
	return n, err
}

type ownTimeout struct{}

func (ownTimeout) Error() string   { return "i/o timeout" }
func (ownTimeout) Timeout() bool   { return true }
func (ownTimeout) Temporary() bool { return true }

// A guest that hangs up while its poll rests must be found out: the next action would be its.
func TestARestingConnectionSeesItsGuestHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		dial := inMemory(t, func(w http.ResponseWriter, r *http.Request) {
			conn, err := wire.Detach(w, r)
			if err != nil {
				t.Error(err)
				return
			}
			go func() {
				defer conn.Close()
				ended <- conn.Await()
			}()
		}, silence)
		conn := dial()
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		time.Sleep(time.Minute)
		synctest.Wait()
		conn.Close()
		if err := <-ended; err == nil {
			t.Error("it was told that it is woken")
		}
	})
}

// Whoever rests on a connection must not outlive its server.
func TestTheEndOfServeEndsRestingConnections(t *testing.T) {
	for name, requests := range map[string]int{"alone": 1, "with another request behind it": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				ctx, cancel := context.WithCancel(t.Context())
				over := make(chan error, 1)
				go func() { over <- httpserver.Serve(ctx, p, detaching(t, nil), silence) }()
				ours, theirs := net.Pipe()
				defer ours.Close()
				p.conns <- theirs
				go io.WriteString(ours, strings.Repeat("GET /rest HTTP/1.1\r\nHost: h\r\n\r\n", requests))
				time.Sleep(time.Hour)
				begun := time.Now()
				cancel()
				if err := <-over; err != nil {
					t.Error(err)
				}
				if took := time.Since(begun); took > time.Second {
					t.Errorf("it took %s", took)
				}
				if said, err := io.ReadAll(ours); len(said) > 0 || err != nil {
					t.Errorf("it said %q, %v", said, err)
				}
			})
		})
	}
}

// What is answered when the server ends has its last words here, too.
func TestADetachedAnswerUnderWayGetsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		detached := make(chan struct{})
		go func() {
			over <- httpserver.Serve(ctx, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, err := wire.Detach(w, r)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				close(detached)
				time.Sleep(100 * time.Millisecond)
				conn.Resume()
			}), silence)
		}()
		c := newClient(t, p.dial(t))
		c.ask("/")
		<-detached
		cancel()
		c.hears("")
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}

func TestAConnectionThatWasDetachedIsIdleForSoLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		close(release)
		c := newClient(t, inMemory(t, detaching(t, release), silence)())
		c.ask("/rest")
		c.hears("rested")
		begun := time.Now()
		if _, err := c.from.ReadByte(); err != io.EOF {
			t.Errorf("it ends with %v", err)
		}
		if took := time.Since(begun); took != httpserver.IdleTimeout {
			t.Errorf("it ended after %s", took)
		}
	})
}

// One byte is no request: the time for headers begins with it.
func TestTheNextRequestHasItsTimeForHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		close(release)
		c := newClient(t, inMemory(t, detaching(t, release), silence)())
		c.ask("/rest")
		c.hears("rested")
		time.Sleep(time.Minute)
		begun := time.Now()
		io.WriteString(c.Conn, "G")
		if said, after := ends(t, c.Conn, begun); after > httpserver.HeaderTimeout+time.Second {
			t.Errorf("it ended after %s with %q", after, said)
		}
	})
}

// Threat 16, of connections that net/http doesn't know: they count, and make room when they are idle.
func TestDetachedConnectionsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		dial := inMemory(t, detaching(t, release), silence)
		resting := callAll(dial, "/rest", httpserver.Unclaimed)
		late := call(dial(), "/ok")
		time.Sleep(time.Hour)
		if got := late.state(); got != "waits" {
			t.Errorf("one too many: %s", got)
		}
		close(release)
		if got := late.state(); got != "OK" {
			t.Errorf("it was not let in when the others were idle: %s", got)
		}
		idle := 0
		for i, c := range resting {
			if got := c.state(); got != "OK" {
				t.Errorf("connection %d: %s", i, got)
			}
			if c.state() == "waits" {
				idle++
			}
		}
		if idle != len(resting)-1 {
			t.Errorf("%d are open still", idle)
		}
		for i := range 100 {
			if got := call(dial(), "/ok").state(); got != "OK" {
				t.Fatalf("number %d after it: %s", i, got)
			}
		}
	})
}

// An answer that says that it is the last one must not be lost to a reset.
func TestALastAnswerOnADetachedConnection(t *testing.T) {
	address, end, ended := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := wire.Detach(w, r)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		conn.Header().Set("Connection", "close")
		conn.WriteHeader(http.StatusRequestEntityTooLarge)
		conn.Resume()
	})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100_000))
	all, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 413 Request Entity Too Large\r\n") {
		t.Errorf("it said %q, %v", all, err)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What a file takes off a socket is what was sent, however it comes, and nothing beyond it.
func TestABodyMovesWhole(t *testing.T) {
	const size = 3 << 20
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i ^ i>>8 ^ i>>16)
	}
	moved := make(chan []byte, 1)
	address, end, ended := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			return
		}
		conn, err := wire.Detach(w, r)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		file, err := os.Create(t.TempDir() + "/file")
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		for left := r.ContentLength; left > 0; {
			conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			n, err := conn.MoveTo(file, min(left, 1<<20))
			left -= n
			if errors.Is(err, errors.ErrUnsupported) {
				conn.SetReadDeadline(time.Time{})
				n, err = io.CopyN(file, conn, left)
				left -= n
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("with %d bytes to come: %v", left, err)
				return
			}
		}
		got, err := os.ReadFile(file.Name())
		if err != nil {
			t.Error(err)
		}
		moved <- got
		conn.Resume()
	})
	for _, piece := range []int{size, 1000, 300_000} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		var sending sync.WaitGroup
		sending.Go(func() {
			fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: "+strconv.Itoa(size)+"\r\n\r\n")
			for sent := 0; sent < size; sent += piece {
				if _, err := conn.Write(content[sent:min(sent+piece, size)]); err != nil {
					t.Error(err)
					return
				}
			}
			fmt.Fprint(conn, "GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
		})
		from := bufio.NewReader(conn)
		for _, what := range []string{"the body", "what came right behind it"} {
			if response, err := http.ReadResponse(from, nil); err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("%s: %v", what, err)
			}
		}
		if got := <-moved; !bytes.Equal(got, content) {
			t.Errorf("in pieces of %d: other bytes came, %d of them", piece, len(got))
		}
		sending.Wait()
		conn.Close()
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A request after which its guest wants no other one, or that asks for something first, stays where it is.
func TestWhatIsNotDetached(t *testing.T) {
	for _, head := range []string{
		"GET / HTTP/1.0\r\nHost: h\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			conn := inMemory(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := wire.Detach(w, r); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("%q: %v", head, err)
				}
			}, silence)()
			io.WriteString(conn, head+"\r\n")
			if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("%q: %v", head, err)
			}
			conn.Close()
		})
	}
}
