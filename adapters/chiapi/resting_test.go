package chiapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// guest is a guest's connection.
type guest struct {
	t *testing.T
	net.Conn
	from *bufio.Reader
}

func newGuest(t *testing.T, conn net.Conn) *guest { return &guest{t, conn, bufio.NewReader(conn)} }

func (g *guest) polls() {
	g.t.Helper()
	if _, err := fmt.Fprintf(g.Conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathPoll); err != nil {
		g.t.Error(err)
	}
}

// gets reads the answer to a poll.
func (g *guest) gets() domain.Action {
	g.t.Helper()
	response, err := http.ReadResponse(g.from, nil)
	if err != nil {
		g.t.Error(err)
		return domain.Action{}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Error(err)
	}
	action, err := wire.DecodeAction(body)
	if err != nil || response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != wire.TypeJSON {
		g.t.Errorf("%s, %q: %v", response.Status, body, err)
	}
	return action
}

// A poll that has waited for long is answered like any other, and its connection goes on.
func TestAPollThatRestsIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, nil)
		g := newGuest(t, serve(t, h)())
		for range 3 {
			begun := time.Now()
			g.polls()
			time.Sleep(20 * time.Second)
			got := fetch(t.Context(), t, s)
			id := g.gets().ID()
			if took := time.Since(begun); id == "" || took != 20*time.Second {
				t.Errorf("it got %q after %s", id, took)
			}
			fmt.Fprintf(g.Conn, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\ncontent", replyTo(id))
			if response, err := http.ReadResponse(g.from, nil); err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("the reply: %v", err)
			}
			if f := <-got; f.content != "content" || f.err != nil {
				t.Errorf("fetched %q, %v", f.content, f.err)
			}
		}
		begun := time.Now()
		g.polls()
		if action := g.gets(); action.Kind() != domain.KindNone || time.Since(begun) != domain.MaxHold {
			t.Errorf("it got %s after %s", action, time.Since(begun))
		}
		g.polls()
		time.Sleep(time.Second)
		s.StopPolls()
		if action := g.gets(); action.Kind() != domain.KindNone {
			t.Errorf("when polls were stopped, it got %s", action)
		}
		begun = time.Now()
		g.polls()
		if action := g.gets(); action.Kind() != domain.KindNone || time.Since(begun) != time.Second {
			t.Errorf("after polls were stopped, it got %s after %s", action, time.Since(begun))
		}
	})
}

// Fault 1 of a poll that rests: whoever hangs up is handed nothing, be it before the action or just then.
func TestARestingPollThatHungUpIsHandedNothing(t *testing.T) {
	for name, between := range map[string]func(hangUp, ask func()){
		"before":    func(hangUp, ask func()) { hangUp(); synctest.Wait(); ask() },
		"just then": func(hangUp, ask func()) { hangUp(); ask() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := newService(t, nil)
				dial := serve(t, h)
				dead := newGuest(t, dial())
				dead.polls()
				time.Sleep(10 * time.Second)
				var got <-chan fetched
				between(func() { dead.Close() }, func() { got = fetch(t.Context(), t, s) })
				synctest.Wait()
				begun := time.Now()
				id := take(t, h).ID()
				if id == "" || time.Since(begun) > 0 {
					t.Errorf("the next poll got %q after %s", id, time.Since(begun))
				}
				ask(t, h, "POST", replyTo(id), "content").fine(t, "the reply")
				if f := <-got; f.err != nil {
					t.Error(f.err)
				}
			})
		})
	}
}

// Threat 13: there are as many that rest as there may be, and one more has the oldest go.
func TestThreat13RestingPollsHaveALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newService(t, nil)
		dial := serve(t, h)
		var all []*guest
		limits, err := domain.Limits{}.WithDefaults()
		if err != nil {
			t.Fatal(err)
		}
		for range limits.Polls + 1 {
			g := newGuest(t, dial())
			g.polls()
			time.Sleep(time.Second)
			all = append(all, g)
		}
		begun := time.Now()
		if action := all[0].gets(); action.Kind() != domain.KindNone || time.Since(begun) > 0 {
			t.Errorf("it got %s after %s", action, time.Since(begun))
		}
	})
}

// What comes behind a poll's headers is no request, and would be taken for one on a connection that is given back.
func TestAPollWithABodyDoesNotRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newService(t, nil)
		g := newGuest(t, serve(t, h)())
		inner := "PUT " + wire.PathSuccess + " HTTP/1.1\r\nHost: h\r\n\r\n"
		fmt.Fprintf(g.Conn, "GET %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", wire.PathPoll, len(inner))
		time.Sleep(10 * time.Second)
		go io.WriteString(g.Conn, inner) // a pipe takes no more than is read
		g.gets()
		time.Sleep(time.Minute)
		if a := ask(t, h, "PUT", wire.PathFailed, ""); a.Code != http.StatusOK { // 409, were there a result
			t.Errorf("the body was taken for a request: %d %s", a.Code, a.Body)
		}
	})
}
