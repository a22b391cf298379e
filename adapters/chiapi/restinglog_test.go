package chiapi_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
)

// sink is a log that can be looked at.
type sink struct {
	mu   sync.Mutex
	all  bytes.Buffer
	fail error
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	return s.all.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

const logHead = "POST " + wire.PathLog + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

// A log that prints a line now and then arrives as it is printed, and its connection goes on when it has ended.
func TestALogThatRestsArrivesAsItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &sink{}
		s, h := newService(t, func(c *host.Config) { c.Log = log })
		g := newGuest(t, serve(t, h)())
		for range 2 {
			log.all.Reset()
			io.WriteString(g.Conn, logHead)
			var want strings.Builder
			for _, size := range []int{1, 511, 512, 513, 5000, 200_000, 1} {
				time.Sleep(time.Hour)
				line := strings.Repeat("x", size)
				fmt.Fprintf(g.Conn, "%x\r\n%s\r\n", size, line)
				want.WriteString(line)
				synctest.Wait()
				if got := log.String(); got != want.String() {
					t.Fatalf("of %d bytes, %d have come", want.Len(), len(got))
				}
			}
			io.WriteString(g.Conn, "0\r\n\r\n")
			if response, err := http.ReadResponse(g.from, nil); err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("the answer: %v", err)
			}
		}
		fmt.Fprintf(g.Conn, "PUT %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathSuccess)
		outcome, err := s.Outcome(t.Context())
		if err != nil || !outcome.Succeeded() {
			t.Errorf("the outcome is %+v, %v", outcome, err)
		}
	})
}

// What net/http makes of a body, and what is made of one that net/http doesn't see, must be the same: what is in the
// log, whether that is all of it, and where the next request begins.
func TestALogThatRestsIsReadAsNetHTTPDoes(t *testing.T) {
	for name, body := range map[string]string{
		"empty":                       "0\r\n\r\n",
		"one chunk":                   "3\r\nabc\r\n0\r\n\r\n",
		"several":                     "3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
		"capitals and zeros":          "000A\r\n0123456789\r\n0\r\n\r\n",
		"extensions":                  "3;a=b\r\nabc\r\n0;c\r\n\r\n",
		"trailers":                    "3\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\n",
		"a trailer without a name":    "0\r\n: b\r\n\r\n",
		"a long trailer":              "3\r\nabc\r\n0\r\nA: " + strings.Repeat("b", 2000) + "\r\n\r\n",
		"one as long as our buffer":   "0\r\nA: " + strings.Repeat("b", 512-len("A: ")) + "\r\nC: d\r\n\r\n",
		"trailers without end":        "0\r\n" + strings.Repeat("A: "+strings.Repeat("b", 400)+"\r\n", 100) + "\r\n",
		"bare newlines":               "3\nabc\n0\n\n",
		"no length":                   "\r\nabc\r\n0\r\n\r\n",
		"a length that is none":       "x\r\nabc\r\n0\r\n\r\n",
		"a negative one":              "-3\r\nabc\r\n0\r\n\r\n",
		"a huge one":                  "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
		"a length that is too short":  "2\r\nabc\r\n0\r\n\r\n",
		"a length that is too long":   "4\r\nabc\r\n0\r\n\r\n",
		"a very long extension":       "3;" + strings.Repeat("a", 5000) + "\r\nabc\r\n0\r\n\r\n",
		"extensions without end":      strings.Repeat("1;"+strings.Repeat("a", 400)+"\r\nx\r\n", 100) + "0\r\n\r\n",
		"cut before the length":       "3\r\nabc\r\n",
		"cut in the length":           "3\r\nabc\r\n1",
		"cut in a chunk":              "5\r\nab",
		"cut behind one":              "3\r\nabc",
		"cut behind its first byte":   "3\r\nabc\r",
		"cut in the end":              "3\r\nabc\r\n0\r\n",
		"cut in the end's newline":    "3\r\nabc\r\n0\r\n\r",
		"cut in a trailer":            "3\r\nabc\r\n0\r\nA: b",
		"a request in a chunk":        "2b\r\nPUT /engine/v1/success HTTP/1.1\r\nHost: h\r\n\r\n\r\n0\r\n\r\n",
		"a request for a trailer":     "0\r\nPUT /engine/v1/success HTTP/1.1\r\nHost: h\r\n\r\n",
		"a line of two bytes at last": "0\r\nx\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			type account struct {
				log            string
				complete       bool
				next, resolved bool
			}
			account1 := func(serve func(*testing.T, http.Handler) func() net.Conn) (got account) {
				synctest.Test(t, func(t *testing.T) {
					log := &sink{}
					s, h := newService(t, func(c *host.Config) { c.Log = log })
					conn := serve(t, h)()
					pinged := make(chan struct{}, 1)
					go func() {
						// The next request is right behind, but for a body that is cut.
						next := "GET " + wire.PathPing + " HTTP/1.1\r\nHost: h\r\n\r\n"
						if strings.HasPrefix(name, "cut") {
							next = ""
						}
						io.WriteString(conn, logHead+body+next)
						time.Sleep(time.Second)
						if next == "" {
							conn.Close()
						}
					}()
					go func() {
						defer close(pinged)
						g := newGuest(t, conn)
						for range 2 {
							response, err := http.ReadResponse(g.from, nil)
							if err != nil || response.StatusCode != http.StatusOK {
								return
							}
						}
						pinged <- struct{}{}
					}()
					time.Sleep(time.Minute)
					conn.Close()
					_, got.next = <-pinged
					got.resolved = s.Resolved()
					got.log = log.String()
					got.complete = s.CloseLog().Complete()
				})
				return got
			}
			want, got := account1(servePlain), account1(serve)
			if got != want {
				t.Errorf("it is %+v, with net/http %+v", got, want)
			}
		})
	}
}

// servePlain is serve without our server.
func servePlain(t *testing.T, h http.Handler) (dial func() net.Conn) {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: h}
	var over sync.WaitGroup
	over.Go(func() { server.Serve(p) })
	t.Cleanup(func() {
		server.Close()
		over.Wait()
		time.Sleep(time.Second) // net/http lingers for half of one after a refusal
	})
	return func() net.Conn {
		ours, theirs := net.Pipe()
		p.conns <- theirs
		t.Cleanup(func() { ours.Close() })
		return ours
	}
}

func TestALogThatRestsIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		before func(*host.Service, *sink)
		code   domain.Code
	}{
		"the log is closed":  {func(s *host.Service, _ *sink) { s.CloseLog() }, domain.CodeResourceConflict},
		"the sink is broken": {func(_ *host.Service, log *sink) { log.fail = errors.New("no space left on device") }, domain.CodeInternalError},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &sink{}
				s, h := newService(t, func(c *host.Config) { c.Log = log })
				test.before(s, log)
				conn := serve(t, h)()
				go io.WriteString(conn, logHead+"3\r\nabc\r\n0\r\n\r\n")
				a, err := readAnswer(conn)
				if err != nil {
					t.Fatal(err)
				}
				a.refused(t, "the log", test.code)
				if got := a.Header().Get("Connection"); got != "close" {
					t.Errorf("the connection is to %q", got)
				}
			})
		})
	}
}
