package chiapi_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// pour writes to a connection until it breaks, and counts what the other end took.
func pour(conn net.Conn) <-chan int64 {
	took := make(chan int64, 1)
	go func() {
		block := make([]byte, 1024)
		var total int64
		for {
			n, err := conn.Write(block)
			total += int64(n)
			if err != nil {
				took <- total
				return
			}
		}
	}()
	return took
}

// drip writes a byte a second until the test ends.
func drip(t *testing.T, conn net.Conn, b string) {
	stop := make(chan struct{})
	var over sync.WaitGroup
	over.Go(func() {
		for {
			select {
			case <-time.After(time.Second):
				io.WriteString(conn, b)
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		conn.Close()
		over.Wait()
	})
}

// Whoever guesses ids must not make the host read what comes with them.
func TestTheBodyOfAReplyToNothingIsNotRead(t *testing.T) {
	for name, header := range map[string]string{
		"announced": "Content-Length: 1073741824\r\n\r\n",
		"chunked":   "Transfer-Encoding: chunked\r\n\r\n40000000\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, h := newService(t, nil)
				conn := serve(t, h)()
				fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\n%s", replyTo("guess"), header)
				took := pour(conn)
				a, err := readAnswer(conn)
				if err != nil {
					t.Fatal(err)
				}
				a.refused(t, "the reply", domain.CodeUnknownActionID)
				if got := a.Header().Get("Connection"); got != "close" {
					t.Errorf("the connection is to %q", got)
				}
				if n := <-took; n > 300<<10 { // it ends only because the host closes it
					t.Errorf("the host took %d bytes", n)
				}
			})
		})
	}
}

// net/http reads up to 256 KiB of a body that a handler left, before it lets the answer out: were there
// no time for that, one byte that never comes would hold the answer, and the connection, for ever.
func TestABodyThatNeverComesHoldsNoAnswer(t *testing.T) {
	for request, limit := range map[string]time.Duration{
		"POST " + replyTo("guess"): time.Second,
		"POST /unknown":            time.Second,
		"POST " + wire.PathExecute: time.Second,
		"GET " + wire.PathExecute:  30 * time.Second,
		"GET " + wire.PathPing:     30 * time.Second,
		"PUT " + wire.PathSuccess:  30 * time.Second,
		"GET " + wire.PathPoll:     30 * time.Second,
	} {
		t.Run(request, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, h := newService(t, nil)
				conn := serve(t, h)()
				start := time.Now()
				fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n1", request)
				if _, err := readAnswer(conn); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > limit {
					t.Errorf("the answer took %s", took)
				}
				if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(start) > limit+time.Second {
					t.Errorf("the connection is open after %s", time.Since(start))
				}
			})
		})
	}
}

// A client that asks first whether to send is told not to.
func TestAReplyToNothingIsNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newService(t, nil)
		conn := serve(t, h)()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1073741824\r\n\r\n", replyTo("guess"))
		a, err := readAnswer(conn)
		if err != nil {
			t.Fatal(err)
		}
		a.refused(t, "the reply", domain.CodeUnknownActionID)
	})
}

// A small body has 30 s. A hello is refused then, a result hung up on: a refusal would be final.
func TestASlowSmallBodyIsCut(t *testing.T) {
	for _, test := range []struct {
		request string
		refused domain.Code
	}{
		{"POST " + wire.PathHello, domain.CodeInvalidPayload},
		{"PUT " + wire.PathSuccess, ""},
	} {
		for _, sent := range []string{"", "{", "drip"} {
			t.Run(test.request+" "+sent, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, h := newService(t, nil)
					ask(t, h, "POST", wire.PathHello, helloWithResult).fine(t, "hello")
					conn := serve(t, h)()
					fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n", test.request)
					start := time.Now()
					if sent == "drip" {
						drip(t, conn, " ")
					} else {
						io.WriteString(conn, sent)
					}
					a, err := readAnswer(conn)
					if took := time.Since(start); took != 30*time.Second {
						t.Errorf("it took %s", took)
					}
					if s.Resolved() {
						t.Error("the task is resolved")
					}
					if test.refused == "" {
						if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
							t.Errorf("answered with %d %s, %v", a.Code, a.Body, err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					a.refused(t, "the answer", test.refused)
					if n, err := conn.Read(make([]byte, 1)); err == nil {
						t.Errorf("%d bytes more", n)
					}
				})
			})
		}
	}
}

// The time for a small body ends with it: the connection may be used for longer.
func TestTheTimeForASmallBodyIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newService(t, nil)
		conn := serve(t, h)()
		for range 3 {
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", wire.PathHello, len(helloWithResult), helloWithResult)
			if a, err := readAnswer(conn); err != nil {
				t.Fatal(err)
			} else {
				a.fine(t, "hello")
			}
			time.Sleep(20 * time.Second)
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathPoll)
			if a, err := readAnswer(conn); err != nil || !strings.Contains(a.Body.String(), `"none"`) {
				t.Fatalf("the poll: %v", err)
			}
		}
	})
}

// Fault 1, as the server tells it: the request ends with its connection.
func TestAPollThatHungUpIsHandedNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, nil)
		dial := serve(t, h)
		conn := dial()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathPoll)
		synctest.Wait()
		conn.Close()
		synctest.Wait()
		got := fetch(t.Context(), t, s)
		synctest.Wait()
		start := time.Now()
		id := take(t, h).ID()
		if id == "" || time.Since(start) > 0 {
			t.Errorf("the next poll got %q after %s", id, time.Since(start))
		}
		ask(t, h, "POST", replyTo(id), "content").fine(t, "the reply")
		if f := <-got; f.err != nil {
			t.Error(f.err)
		}
	})
}

// Fault 2 over a connection, at its true times: half of a file, and then silence or a trickle.
func TestAReplyThatStallsIsCut(t *testing.T) {
	for _, dripping := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, h := newService(t, nil)
			got := fetch(t.Context(), t, s)
			id := take(t, h).ID()
			conn := serve(t, h)()
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n1", replyTo(id))
			start := time.Now()
			if dripping {
				drip(t, conn, "1")
			}
			f := <-got
			if took := time.Since(start); took < 30*time.Second || took > 31*time.Second {
				t.Errorf("it took %s", took)
			}
			if !errors.Is(f.err, domain.ErrSlowReply) || !errors.Is(f.err, domain.ErrNonFatalInternalError) {
				t.Errorf("fetched %q, %v", f.content, f.err)
			}
			if a, err := readAnswer(conn); err == nil {
				a.refused(t, "the reply", domain.CodeInvalidPayload)
			}
		})
	}
}
