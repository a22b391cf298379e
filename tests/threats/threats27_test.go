//go:build linux

package threats

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

func init() {
	register("a task that plays the tools", taskPlaysTools)
	register("a task that holds the door", taskHoldsTheDoor)
}

// withHeader puts a header into a request.
func withHeader(request, header string) string {
	if header == "" {
		return request
	}
	return strings.Replace(request, "\r\n", "\r\n"+header+"\r\n", 1)
}

// shown is the header that shows a token.
func shown(token string) string { return "Authorization: Bearer " + token }

// takeToken asks for the token.
func (r *raid) takeToken(header string) (token string, status int, err error) {
	a, err := r.ask([]byte(withHeader(bare(http.MethodPost, wire.PathToken), header)))
	if err != nil || a.status != http.StatusOK {
		return "", a.status, err
	}
	given, err := wire.DecodeToken(a.body)
	return given.Reveal(), a.status, err
}

// requestTo is a request to an end point that could be served.
func requestTo(method, path, id string) string {
	target := strings.Replace(path, "ID", id, 1)
	switch path {
	case wire.PathHello:
		body := wire.EncodeHello(domain.Hello{Version: "1", BootID: "2", OS: "linux", Arch: "amd64"})
		return method + " " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Type: application/json\r\n" + sized(int64(len(body))) + string(body)
	case wire.PathReply + "?id=ID":
		if method == http.MethodGet {
			return upgrade(id)
		}
	}
	return bare(method, target)
}

// taskPlaysTools has the guest's tools take the token, and take an action. Then the task, which knows all of
// this but the token, asks for everything.
func taskPlaysTools(r *raid) error {
	token, status, err := r.takeToken("")
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("the tools got %d, %w", status, err)
	}
	r.count("length", int64(len(token)))
	action, err := r.pollWith(shown(token))
	if err != nil {
		return err
	}
	headers := map[string]string{
		"none":                "",
		"an empty one":        "Authorization:",
		"another":             shown(strings.Repeat("A", len(token))),
		"all but its end":     shown(token[:len(token)-1]),
		"more than it":        shown(token + "A"),
		"its case":            shown(strings.ToLower(token)),
		"another scheme":      "Authorization: Basic " + token,
		"no scheme":           "Authorization: " + token,
		"it and another":      shown(token) + "\r\n" + shown("A"),
		"it in another field": "X-Authorization: Bearer " + token,
		"it as a cookie":      "Cookie: Authorization=" + token,
		"it as a proxy's":     "Proxy-" + shown(token),
	}
	for name, header := range headers {
		for _, at := range endPoints {
			a, err := r.ask([]byte(withHeader(requestTo(at.method, at.path, action.ID), header)))
			if err != nil {
				return fmt.Errorf("%s at %s %s: %w", name, at.method, at.path, err)
			}
			want := http.StatusUnauthorized
			if at.path == wire.PathToken && (name == "none" || name[:3] == "it " && name != "it and another") {
				want = http.StatusConflict // nothing was shown: it is asked for a second time
			}
			r.count("asked", 1)
			if a.status != want || strings.Contains(string(a.body), "hunter2") || strings.Contains(string(a.body), token) {
				r.text(name+" at "+at.method+" "+at.path, fmt.Sprintf("%d %s", a.status, a.body))
			}
		}
		if a, err := r.ask([]byte(withHeader(bare(http.MethodGet, wire.PathExecute+"?token="+token+"&access_token="+token), header))); err != nil || a.status != http.StatusUnauthorized {
			r.text(name+" in the query", fmt.Sprintf("%d %s, %v", a.status, a.body, err))
		}
	}
	_, again, err := r.takeToken(shown(token)) // be it by the tools
	if err != nil {
		return err
	}
	r.count("again", int64(again))
	for _, request := range []struct{ what, bytes string }{
		{"reply", reply(action.ID) + sized(4) + "mine"},
		{"execute", bare(http.MethodGet, wire.PathExecute)},
		{"result", bare(http.MethodPut, wire.PathSuccess)},
	} {
		a, err := r.ask([]byte(withHeader(request.bytes, shown(token))))
		if err != nil {
			return err
		}
		r.count(request.what, int64(a.status))
	}
	return nil
}

// pollWith polls with a header.
func (r *raid) pollWith(header string) (action wire.Action, err error) {
	for action.Type == "" || action.Type == "none" {
		if r.over() {
			return action, r.ctx.Err()
		}
		a, err := r.ask([]byte(withHeader(bare(http.MethodGet, wire.PathPoll), header)))
		if err != nil {
			return action, err
		}
		if a.status != http.StatusOK {
			return action, fmt.Errorf("a poll got %d %s", a.status, a.body)
		}
		if err := json.Unmarshal(a.body, &action); err != nil {
			return action, err
		}
	}
	return action, nil
}

// Threat 27. Whatever runs in the guest could ask for the task's secrets, resolve it, and take its polls. With a
// token no end point answers without it, nothing is used up by who hasn't got it, and it is handed out once.
// That the task itself can't read it is shown where machines are. A guest of old has no token, and no protection.
func TestThreat27TaskPlaysGuestTools(t *testing.T) {
	t.Parallel()
	h := startHost(t, HostSpec{})
	guest := h.add(t, AddGuest{Token: metaservice.TokenRequired, Limits: metaservice.Limits{
		Requests: 1e6, RequestBurst: 1e6, Hold: time.Second / 10, Tries: 1,
	}})
	artifact := begin[Got](t, h, "Artifact", Ask{Guest: guest, Path: "/file"})
	tally := attackGuest(t, h, guest, "a task that plays the tools", nil).wait(t)
	for what, got := range tally.Texts {
		t.Errorf("%s got %s", what, got)
	}
	if asked := tally.Counts["asked"]; asked != int64(12*len(endPoints)) {
		t.Errorf("%d requests", asked)
	}
	if n := tally.Counts["length"]; n < 256/6 {
		t.Errorf("the token has %d characters", n)
	}
	if got := tally.Counts["again"]; got != http.StatusConflict {
		t.Errorf("a second hand-out got %d", got)
	}
	for _, what := range []string{"reply", "execute", "result"} {
		if got := tally.Counts[what]; got != http.StatusOK {
			t.Errorf("the tools' %s got %d", what, got)
		}
	}
	if got := within(t, time.Minute, "the caller", artifact); string(got.Begin) != "mine" {
		t.Errorf("the caller got %q, %q", got.Begin, got.Text)
	}
	var ended Ended
	h.call(t, "Outcome", Ask{Guest: guest, Within: time.Minute}, &ended)
	if !ended.Succeeded {
		t.Errorf("the outcome is %+v", ended)
	}
}

// taskHoldsTheDoor opens one connection after the other, a line of them at once, and keeps each for as long as the
// host lets it, while the tools ask for something with their token: over a connection that they have, and over
// new ones.
func taskHoldsTheDoor(r *raid) error {
	token, status, err := r.takeToken("")
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("the tools got %d, %w", status, err)
	}
	ping := withHeader(bare(http.MethodGet, wire.PathPing), shown(token))
	kept, err := r.dial()
	if err != nil {
		return err
	}
	defer kept.Close()
	from := bufio.NewReader(kept)
	ask := func() error {
		kept.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(kept, ping); err != nil {
			return err
		}
		a, err := readAnswer(from)
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("it got %d", a.status)
		}
		return err
	}
	if err := ask(); err != nil {
		return err
	}
	holds := []string{"", "GET /engine/v1/", bare(http.MethodGet, wire.PathPoll), bare(http.MethodPost, wire.PathToken)}
	stop := make(chan struct{})
	var flood sync.WaitGroup
	defer flood.Wait()
	defer close(stop)
	for i := range doorLine {
		flood.Go(func() {
			for {
				conn, err := r.dial()
				if err != nil {
					return
				}
				go func() {
					<-stop
					conn.Close()
				}()
				io.WriteString(conn, holds[i%len(holds)])
				io.Copy(io.Discard, conn)
				conn.Close()
				select {
				case <-stop:
					return
				default:
				}
				r.count("held", 1)
			}
		})
	}
	var slowest time.Duration
	for range 3 {
		begun := time.Now()
		if a, err := r.ask([]byte(ping)); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("a new connection of the tools got %d, %w", a.status, err)
		}
		slowest = max(slowest, time.Since(begun))
		begun = time.Now()
		if err := ask(); err != nil {
			return fmt.Errorf("the connection that the tools have: %w", err)
		}
		r.took("kept", max(r.tally.Times["kept"], time.Since(begun)))
	}
	r.took("new", slowest)
	return nil
}

// doorLine is how many connections a task has wait, or be kept, at once.
const doorLine = 80

// Threats 16 and 27. A task could hold all connections that a guest may have beside those that its host asked for, so
// that the tools, which have the token, waited outside.
func TestATaskThatHoldsTheDoor(t *testing.T) {
	t.Parallel()
	h := startHost(t, HostSpec{})
	guest := h.add(t, AddGuest{Token: metaservice.TokenRequired})
	tally := attackGuest(t, h, guest, "a task that holds the door", nil).wait(t)
	t.Logf("new connections of the tools waited for %s at most, theirs for %s; the task's were closed %d times",
		tally.Times["new"], tally.Times["kept"], tally.Counts["held"])
	if took := tally.Times["kept"]; took > slack {
		t.Errorf("the tools waited for %s", took)
	}
	if took, most := tally.Times["new"], doorLine/httpserver.Unclaimed*httpserver.CrowdedHeaderTimeout+slack; took > most {
		t.Errorf("the tools waited for %s, not %s, to be let in", took, most)
	}
}
