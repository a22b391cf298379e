//go:build linux

package threats

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
)

func init() {
	register("many polls", manyPolls)
	register("guesses", guesses)
	register("wrong replies", wrongReplies)
}

const pollRequest = "GET " + wire.PathPoll + " HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"

// manyPolls makes so many polls: many on each connection, one after the other without an answer, and many
// connections. Then it holds them, has all of them die in one way or another, and at last it is a guest that
// polls as it should and answers.
func manyPolls(r *raid) error {
	const each = 100
	var conns []net.Conn
	for range r.number("polls") / each {
		conn, err := r.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(conn, strings.Repeat(pollRequest, each)); err != nil {
			return err
		}
		r.count("polls", each)
		conns = append(conns, conn)
	}
	r.say("polls")
	time.Sleep(time.Duration(r.number("hold ms")) * time.Millisecond) // this is the attack, not a test's wait
	r.say("held")
	for n, conn := range conns {
		switch tcp := conn.(*net.TCPConn); n % 3 {
		case 0:
			tcp.SetLinger(0)
			tcp.Close()
		case 1:
			tcp.Close()
		case 2: // it stays half open
			tcp.CloseWrite()
		}
	}
	r.say("dead")
	for !r.over() {
		action, status, err := r.pollOnce()
		switch {
		case r.over():
			return nil
		case status == http.StatusServiceUnavailable, err != nil && status == 0: // its polls before were too many
			r.count("refused", 1)
			time.Sleep(100 * time.Millisecond)
		case err != nil:
			return err
		case action.Type == "get-artifact":
			for answered := false; !answered && !r.over(); { // as guests do, whom a 503 sends away for now
				answer, err := r.ask([]byte(reply(action.ID) + sized(7) + "content"))
				if err != nil {
					return err
				}
				r.count(fmt.Sprint("reply ", answer.status), 1)
				answered = answer.status != http.StatusServiceUnavailable
			}
		}
	}
	return nil
}

// pollOnce makes one poll.
func (r *raid) pollOnce() (action wire.Action, status int, err error) {
	answer, err := r.askWithin(r.ctx, []byte(strings.Replace(pollRequest, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)))
	if err != nil {
		return action, answer.status, err
	}
	if answer.status != http.StatusOK {
		return action, answer.status, fmt.Errorf("a poll got %d %s", answer.status, answer.body)
	}
	return action, answer.status, json.Unmarshal(answer.body, &action)
}

// Threat 13. Each poll held 20 KiB, any of them might take the action, and one that had died took it along.
// There are never more than a few; what is dead gets nothing.
func TestThreat13ManyPolls(t *testing.T) {
	t.Parallel()
	const (
		polls   = 10_000
		actions = 100
	)
	h := startHost(t, HostSpec{Limits: metaservice.Limits{Tries: 1}})
	attack(t, h, "one ping", nil).wait(t)
	before := h.usage(t)
	a := attack(t, h, "many polls", map[string]string{"polls": fmt.Sprint(polls), "hold ms": "1500"})
	a.hears(t, "polls")
	var most int64
	for range 5 {
		most = max(most, h.usage(t).Heap-before.Heap)
	}
	a.hears(t, "held")
	during := h.usage(t)
	most = max(most, during.Heap-before.Heap)
	t.Logf("%d polls add %d KiB; %d connections are open, the answers are %v", polls, most>>10, during.Open, during.Answers)
	limit := int64(1 << 20)
	if raceDetector {
		limit *= 2 // stacks are larger with it
	}
	if most > limit {
		t.Errorf("%d polls add %d KiB", polls, most>>10)
	}
	a.hears(t, "dead")
	var all []<-chan Got
	for n := range actions {
		all = append(all, h.artifact(t, fmt.Sprint("/", n)))
	}
	lost := 0
	for n, got := range all {
		if g := within(t, time.Minute, "an artifact", got); g.failed() || string(g.Begin) != "content" {
			if lost++; lost == 1 {
				t.Errorf("artifact %d: %q, %q", n, g.Begin, g.Text)
			}
		}
	}
	tally := a.stop(t)
	t.Logf("then %v", tally.Counts)
	if lost > 0 || tally.Counts["reply 200"] != actions {
		t.Errorf("%d of %d actions were lost, the guest has %v", lost, actions, tally.Counts)
	}
}

// guesses replies to ids that it makes up, from one that is right, by several connections at once, in turns
// with all kinds of bodies, until so many were answered or it is told to stop.
func guesses(r *raid) error {
	action, err := r.poll()
	if err != nil {
		return err
	}
	r.say("polled")
	var all sync.WaitGroup
	var done atomic.Int64
	errs := make(chan error, r.number("at once"))
	for worker := range r.number("at once") {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 14))
			var conn net.Conn
			var from *bufio.Reader
			for !r.over() && done.Add(1) <= int64(r.number("guesses")) {
				if conn == nil {
					var err error
					if conn, err = r.dial(); err != nil {
						errs <- err
						return
					}
					defer conn.Close()
					from = bufio.NewReader(conn)
				}
				conn.SetDeadline(time.Now().Add(time.Minute))
				io.WriteString(conn, reply(guess(random, action.ID))+sized(0))
				answer, err := readAnswer(from)
				switch {
				case err != nil:
					r.count("closed", 1)
				case answer.status == http.StatusBadRequest:
					r.count("400", 1)
					r.text("400", string(answer.body))
				default:
					r.count(fmt.Sprint(answer.status), 1)
				}
				if err != nil || answer.header.Get("Connection") == "close" {
					conn.Close()
					conn = nil
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	// The id that nobody guessed is still good.
	for {
		answer, err := r.ask([]byte(reply(action.ID) + sized(7) + "content"))
		if err == nil && answer.status != http.StatusServiceUnavailable {
			r.count(fmt.Sprint("right ", answer.status), 1)
			return nil
		}
		if r.over() {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// guess is an id that is none: a random one, or one that is nearly right.
func guess(random *rand.Rand, right string) string {
	at := random.IntN(len(right))
	switch random.IntN(6) {
	case 0:
		return right[:at]
	case 1:
		return right + "%00"
	case 2:
		return strings.ToUpper(right) + right[:1]
	case 3:
		return right[:at] + string("0123456789abcdef"[random.IntN(16)]) + "!" + right[at:]
	}
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", random.Uint32(), random.IntN(1<<16), random.IntN(1<<12), random.IntN(1<<12), random.Int64N(1<<48))
}

// wrongReplies answers one action in every way that is wrong, then right, and then right once more. Bodies of
// a gigabyte come with ids that are none.
func wrongReplies(r *raid) error {
	action, err := r.poll()
	if err != nil {
		return err
	}
	note := func(what string, request string, pour bool) error {
		conn, err := r.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(conn, request)
		var pouring sync.WaitGroup
		if pour {
			pouring.Go(func() {
				for many := make([]byte, 64<<10); ; {
					if strings.HasSuffix(request, chunked) {
						fmt.Fprintf(conn, "%x\r\n", len(many))
					}
					if _, err := conn.Write(many); err != nil {
						return
					}
					if strings.HasSuffix(request, chunked) {
						fmt.Fprint(conn, "\r\n")
					}
				}
			})
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: request[:strings.Index(request, " ")]})
		var answer answer
		if err == nil {
			answer.status = response.StatusCode
			answer.body, err = io.ReadAll(response.Body)
		}
		r.count(fmt.Sprint(what, " ", answer.status), 1)
		r.text(fmt.Sprint(what, " ", answer.status), string(answer.body))
		conn.Close()
		pouring.Wait()
		if pour {
			return nil // its answer may be lost with what the host has not read
		}
		return err
	}
	right := reply(action.ID)
	var errs []error
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} {
		errs = append(errs, note("method", method+strings.TrimPrefix(right, "POST")+"Connection: close\r\n\r\n", false))
	}
	errs = append(errs,
		note("method", "GET"+strings.TrimPrefix(right, "POST")+"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", false))
	for range r.number("gigabytes") {
		errs = append(errs,
			note("gigabyte", reply("none")+sized(1<<30), true),
			note("gigabyte", reply("none")+chunked, true))
	}
	r.say("poured")
	errs = append(errs,
		note("right", right+sized(7)+"content", false),
		note("replay", right+sized(6)+"forged", false),
		note("unknown", reply("none")+sized(6)+"forged", false))
	return errors.Join(errs...)
}

// Threat 14. An id has 122 random bits, is good once, and for as long as its action waits. Guesses hit
// nothing, learn nothing, and are as slow as any flood; what is wrong but for its id doesn't use it up.
func TestThreat14ReplyIDs(t *testing.T) {
	t.Parallel()
	const unknown = "UnknownActionId"
	t.Run("guesses", func(t *testing.T) {
		t.Parallel()
		times := often(10_000, 1_000_000)
		h := startHost(t, HostSpec{Limits: metaservice.Limits{Tries: 1, Reply: time.Hour, Requests: 10_000_000, RequestBurst: 10_000_000}})
		got := h.artifact(t, "/file")
		tally := attack(t, h, "guesses", map[string]string{"guesses": fmt.Sprint(times), "at once": "8"}).wait(t)
		t.Logf("%v", tally.Counts)
		if tally.Counts["400"] != int64(times) || tally.Counts["right 200"] != 1 || !strings.Contains(tally.Texts["400"], unknown) {
			t.Errorf("%d guesses got %v, %q", times, tally.Counts, tally.Texts["400"])
		}
		if g := within(t, time.Minute, "the file", got); string(g.Begin) != "content" {
			t.Errorf("got %q, %q", g.Begin, g.Text)
		}
	})
	t.Run("the limiter", func(t *testing.T) {
		t.Parallel()
		const (
			perSecond = 10
			burst     = 20
		)
		h := startHost(t, HostSpec{Limits: metaservice.Limits{Tries: 1, Requests: perSecond, RequestBurst: burst}})
		got := h.artifact(t, "/file")
		begun := time.Now()
		a := attack(t, h, "guesses", map[string]string{"guesses": "1000000", "at once": "8"})
		a.hears(t, "polled")
		<-time.After(3 * time.Second)
		answers := h.usage(t).Answers
		guessed, took := answers["400"], time.Since(begun)
		a.stop(t)
		t.Logf("in %s the host has answered %v", took, answers)
		if most := burst + int(perSecond*took.Seconds()) + 1; guessed > most || guessed < burst/2 {
			t.Errorf("%d guesses were looked at in %s, %d at most", guessed, took, most)
		}
		within(t, time.Minute, "the file", got) // whether it comes depends on whether the limiter lets it
	})
	t.Run("wrong replies", func(t *testing.T) {
		t.Parallel()
		const gigabytes = 4
		h := startHost(t, HostSpec{Limits: metaservice.Limits{Tries: 1}})
		got := h.artifact(t, "/file")
		before := h.usage(t)
		a := attack(t, h, "wrong replies", map[string]string{"gigabytes": fmt.Sprint(gigabytes)})
		a.hears(t, "poured")
		// 4 KiB of each that is announced, and of the others what net/http reads so that its answer arrives.
		read := h.usage(t).Read - before.Read
		if most := int64(gigabytes*(4<<10+516<<10) + 64<<10); read > most {
			t.Errorf("%d bytes were read, %d at most", read, most)
		}
		tally := a.wait(t)
		t.Logf("%d KiB were read; the guest has %v", read>>10, tally.Counts)
		if tally.Counts["method 405"] != 8 || tally.Counts["right 200"] != 1 || tally.Counts["replay 400"] != 1 || tally.Counts["unknown 400"] != 1 ||
			tally.Counts["gigabyte 400"]+tally.Counts["gigabyte 0"] != 2*gigabytes {
			t.Errorf("the guest has %v", tally.Counts)
		}
		if one, other := tally.Texts["replay 400"], tally.Texts["unknown 400"]; one != other || !strings.Contains(one, unknown) {
			t.Errorf("a replay is told %q, and who makes an id up %q", one, other)
		}
		if g := within(t, time.Minute, "the file", got); string(g.Begin) != "content" {
			t.Errorf("got %q, %q", g.Begin, g.Text)
		}
	})
}
