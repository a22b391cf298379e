//go:build linux

package threats

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/domain"
)

// slack is what a time may be late on a machine that has other things to do.
const slack = 4 * time.Second

func init() {
	register("slow reply", slowReply)
	register("slow headers", slowHeaders)
}

// slowReply answers a get-artifact of 1,000,000 bytes with one byte, and then with as many in each piece
// as it is told, ten pieces a second, of which 0 is silence, until the host hangs up or all is sent.
func slowReply(r *raid) error {
	action, err := r.poll()
	if err != nil {
		return err
	}
	conn, err := r.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	whole := 1_000_000
	if n := r.number("whole"); n > 0 {
		whole = n
	}
	begun := time.Now()
	fmt.Fprintf(conn, "%s%sx", reply(action.ID), sized(int64(whole)))
	over := make(chan struct{})
	var dripping sync.WaitGroup
	dripping.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for left := whole - 1; left > 0; {
			select {
			case <-tick.C:
			case <-over:
				return
			}
			n := min(left, r.number("piece"))
			left -= n
			if _, err := conn.Write(make([]byte, n)); err != nil {
				return
			}
		}
	})
	n, _ := conn.Read(make([]byte, 64<<10)) // an answer or an end
	r.took("held", time.Since(begun))
	r.count("answered", int64(n))
	close(over)
	dripping.Wait()
	return nil
}

// Threat 1. A reply that never ends held its caller for ever. A silent one and one that drips end within
// Limits.Stall; one that brings what Limits.Floor demands may take as long as it likes.
func TestThreat01SlowReplyBody(t *testing.T) {
	t.Parallel()
	const stall = 2 * time.Second
	for name, test := range map[string]struct {
		piece, whole int
		slow         bool
	}{
		"silence":         {piece: 0, slow: true},
		"drip":            {piece: 1, slow: true},
		"below the floor": {piece: 90, slow: true},                   // 900 bytes a second
		"above the floor": {piece: 200, whole: 8 << 10, slow: false}, // two of these windows
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHost(t, HostSpec{Limits: metaservice.Limits{Stall: stall, Tries: 1}})
			got := h.artifact(t, "/file")
			a := attack(t, h, "slow reply", map[string]string{"piece": fmt.Sprint(test.piece), "whole": fmt.Sprint(test.whole)})
			g := within(t, time.Minute, "the caller", got)
			tally := a.wait(t)
			t.Logf("the caller was held for %s, the guest for %s", g.Took, tally.Times["held"])
			if !test.slow {
				if g.failed() || g.Size != int64(test.whole) || g.Took < stall {
					t.Errorf("the patient caller got %d bytes, %q after %s", g.Size, g.Text, g.Took)
				}
				return
			}
			if !g.is(domain.ErrSlowReply) || !g.is(metaservice.ErrNonFatalInternalError) {
				t.Errorf("the caller got %d bytes, %q", g.Size, g.Text)
			}
			// A drip that began a new window with each byte would be held for ever.
			if held := tally.Times["held"]; held < stall || held > 2*stall+slack || g.Took > 2*stall+slack {
				t.Errorf("the guest was held for %s, the caller for %s", held, g.Took)
			}
			var stored Stored
			h.call(t, "Stored", struct{}{}, &stored)
			if stored.Files > 0 {
				t.Errorf("%d files are left", stored.Files)
			}
		})
	}
}

// slowHeaders opens so many connections and sends a header on each, a byte at a time, for as long as the host
// holds them.
func slowHeaders(r *raid) error {
	const request = "GET /engine/v1/ping HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Slow: "
	var all sync.WaitGroup
	errs := make(chan error, r.number("connections"))
	begun := time.Now()
	for n := range r.number("connections") {
		conn, err := r.dial()
		if err != nil {
			return err
		}
		all.Go(func() {
			defer conn.Close()
			over := make(chan struct{})
			all.Go(func() { // drip until the end
				tick := time.NewTicker(200 * time.Millisecond)
				defer tick.Stop()
				for sent := 0; ; sent++ {
					next := byte('x')
					if sent < len(request) {
						next = request[sent]
					}
					if _, err := conn.Write([]byte{next}); err != nil && sent == 0 {
						errs <- err
					}
					if n%4 == 0 && sent > 3 { // every fourth falls silent
						return
					}
					select {
					case <-tick.C:
					case <-over:
						return
					}
				}
			})
			heard, _ := conn.Read(make([]byte, 1<<10))
			r.took(fmt.Sprint(n), time.Since(begun))
			r.count("bytes", int64(heard))
			close(over)
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// Threat 2. Headers that never end held a connection for as long as the guest liked: 5 s are all they get, and a
// second where another connection waits for their place.
func TestThreat02SlowHeaders(t *testing.T) {
	t.Parallel()
	const connections = 16
	h := startHost(t, HostSpec{})
	before := h.usage(t)
	a := attack(t, h, "slow headers", map[string]string{"connections": fmt.Sprint(connections)})
	// What asks properly is served meanwhile.
	begun := time.Now()
	b := attack(t, h, "one ping", nil)
	if tally := b.wait(t); tally.Counts["status"] != http.StatusOK {
		t.Errorf("a ping beside it got %d", tally.Counts["status"])
	}
	if took := time.Since(begun); took > httpserver.CrowdedHeaderTimeout+slack {
		t.Errorf("a ping beside it waited for %s", took)
	}
	tally := a.wait(t)
	var longest time.Duration
	gaveWay := 0
	for n := range connections {
		held := tally.Times[fmt.Sprint(n)]
		longest = max(longest, held)
		switch {
		case held < httpserver.CrowdedHeaderTimeout, held > httpserver.HeaderTimeout+slack:
			t.Errorf("connection %d was held for %s", n, held)
		case held < httpserver.HeaderTimeout-time.Second:
			gaveWay++
		}
	}
	if gaveWay > 1 {
		t.Errorf("%d connections gave way to the ping", gaveWay)
	}
	eventually(t, "all of it is closed", func() error {
		if now := h.usage(t); now.Open > before.Open || now.FDs > before.FDs {
			return fmt.Errorf("%d connections and %d descriptors, before %d and %d", now.Open, now.FDs, before.Open, before.FDs)
		}
		return nil
	})
	t.Logf("held for %s at most", longest)
}

func init() {
	register("one ping", func(r *raid) error {
		answer, err := r.ask([]byte("GET /engine/v1/ping HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n"))
		r.count("status", int64(answer.status))
		r.text("body", strings.ToValidUTF8(string(answer.body), "?"))
		return err
	})
}
