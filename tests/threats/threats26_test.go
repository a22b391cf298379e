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
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
)

func init() { register("resolve at random", resolveAtRandom) }

// line is a connection for one request after the other, as bytes.
type line struct {
	r    *raid
	conn net.Conn
	read *bufio.Reader
}

func (l *line) close() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

// ask makes a request and reads its answer, on the connection of the last one where that is kept.
func (l *line) ask(request string) (answer, error) {
	for again := l.conn != nil; ; again = false {
		if l.conn == nil {
			conn, err := l.r.dial()
			if err != nil {
				return answer{}, err
			}
			l.conn, l.read = conn, bufio.NewReader(conn)
		}
		_, err := io.WriteString(l.conn, request)
		var a answer
		if err == nil {
			a, err = readAnswer(l.read)
		}
		if err != nil || a.header.Get("Connection") == "close" {
			l.close()
		}
		if err == nil || !again {
			return a, err
		}
	}
}

// bare is a request without a body.
func bare(method, path string) string {
	request := method + " " + path + " HTTP/1.1\r\nHost: 169.254.169.254\r\n"
	if method != http.MethodGet {
		request += "Content-Length: 0\r\n"
	}
	return request + "\r\n"
}

// model is what must be true of a task: thirty lines to hold the host to.
type model struct {
	Executed, Resolved, Success, Broken bool
	Bytes, Most                         int64 // of the log: what was acknowledged, and what was sent
	Wrong                               []string

	open *line // a log body that goes on
}

func (m *model) expect(what string, got, want int) {
	if got != want && len(m.Wrong) < 5 {
		m.Wrong = append(m.Wrong, fmt.Sprintf("%s: it got %d and not %d, with %+v", what, got, want, *m))
	}
}

// resolve is the answer to a result.
func (m *model) resolve(success bool) (want int) {
	if m.Resolved && m.Success != success {
		return http.StatusConflict
	}
	m.Resolved, m.Success = true, success
	return http.StatusOK
}

// resolvePaths are the end points of a result.
var resolvePaths = map[bool]string{true: wire.PathSuccess, false: wire.PathFailed}

// resolveAtRandom plays so many steps with each of its addresses, and tells each one's model.
func resolveAtRandom(r *raid) error {
	random := rand.New(rand.NewPCG(uint64(r.number("seed")), 26))
	for i, address := range strings.Split(r.Args["addresses"], " ") {
		r.Address = address
		m := &model{}
		l := &line{r: r}
		for range r.number("steps") {
			if err := m.step(random, l); err != nil {
				return fmt.Errorf("guest %d: %w", i, err)
			}
			r.count("steps", 1)
		}
		if !m.Resolved {
			if err := m.put(l, random.IntN(2) == 0); err != nil {
				return err
			}
		}
		if m.open != nil {
			if err := m.endLog(random.IntN(3) > 0); err != nil {
				return err
			}
		}
		l.close()
		text, err := json.Marshal(m)
		if err != nil {
			return err
		}
		r.text(fmt.Sprint(i), string(text))
	}
	return nil
}

// step is one request, or a part of one.
func (m *model) step(random *rand.Rand, l *line) error {
	switch n := random.IntN(40); {
	case n == 0:
		return m.put(l, random.IntN(2) == 0)
	case n == 1:
		return m.race(l)
	case n < 12 && m.Resolved:
		return m.put(l, random.IntN(2) == 0)
	case n < 20:
		a, err := l.ask(bare(http.MethodGet, wire.PathExecute))
		if err != nil {
			return err
		}
		want := http.StatusOK
		if m.Resolved {
			want = http.StatusConflict
		}
		m.Executed = true
		m.expect("execute", a.status, want)
		if told := strings.Contains(string(a.body), "hunter2"); told != (want == http.StatusOK) {
			m.expect("the secrets of an execute", a.status, 0)
		}
		return nil
	case n < 30 && !m.Resolved: // behind the result the log ends when it likes
		some := strings.Repeat("x", 1+random.IntN(2000))
		a, err := l.ask("POST " + wire.PathLog + " HTTP/1.1\r\nHost: 169.254.169.254\r\n" + sized(int64(len(some))) + some)
		if err != nil {
			return err
		}
		m.Bytes += int64(len(some))
		m.Most += int64(len(some))
		m.expect("a log", a.status, http.StatusOK)
		return nil
	case n < 33 && !m.Resolved && m.open == nil:
		return m.beginLog(l.r)
	case n == 33 && m.open != nil && !m.Broken:
		return m.endLog(random.IntN(4) > 0)
	}
	a, err := l.ask(bare(http.MethodGet, wire.PathPing))
	m.expect("a ping", a.status, http.StatusOK)
	return err
}

func (m *model) put(l *line, success bool) error {
	a, err := l.ask(bare(http.MethodPut, resolvePaths[success]))
	if err != nil {
		return err
	}
	want := m.resolve(success)
	m.expect(resolvePaths[success], a.status, want)
	return nil
}

// race puts both results at once, on connections of their own: the host has one of them.
func (m *model) race(l *line) error {
	var answers [2]answer
	var errs [2]error
	var both sync.WaitGroup
	for i := range answers {
		both.Go(func() { answers[i], errs[i] = l.r.ask([]byte(bare(http.MethodPut, resolvePaths[i == 1]))) })
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if !m.Resolved {
		m.Resolved, m.Success = true, answers[1].status == http.StatusOK
	}
	m.expect("the one of two results", answers[1].status, m.resolve(true))
	m.expect("the other of two results", answers[0].status, m.resolve(false))
	return nil
}

// beginLog begins a log body, of which the host has taken the first bytes when the acks of a ping are there.
func (m *model) beginLog(r *raid) error {
	conn, err := r.dial()
	if err != nil {
		return err
	}
	m.open = &line{r: r, conn: conn, read: bufio.NewReader(conn)}
	m.Most += 5
	_, err = io.WriteString(conn, "POST "+wire.PathLog+" HTTP/1.1\r\nHost: 169.254.169.254\r\nExpect: 100-continue\r\n"+chunked)
	if err != nil {
		return err
	}
	text, err := m.open.read.ReadString('\n') // it comes when the host reads
	if err != nil || !strings.Contains(text, "100 Continue") {
		return fmt.Errorf("a log body begins with %q, %w", text, err)
	}
	if _, err := m.open.read.ReadString('\n'); err != nil {
		return err
	}
	_, err = io.WriteString(conn, "5\r\nbegun\r\n")
	return err
}

// endLog ends the log body, or breaks it off.
func (m *model) endLog(whole bool) error {
	defer func() {
		m.open.close()
		m.open = nil
	}()
	if !whole {
		m.Broken = true
		return nil
	}
	if _, err := io.WriteString(m.open.conn, "0\r\n\r\n"); err != nil {
		return err
	}
	a, err := readAnswer(m.open.read)
	m.Bytes += 5
	m.expect("a log that was open", a.status, http.StatusOK)
	return err
}

// Threat 26. A task has one result, whatever is put and in whatever order, by however many at once: the first.
// A success counts with all of its log.
func TestThreat26ResolveTwice(t *testing.T) {
	t.Parallel()
	const steps = 50
	hosts, guests := often(1, 50), often(40, 400) // 1,000,000 steps
	for n := range hosts {
		seed := rand.Uint32()
		t.Run(fmt.Sprint("host ", n, ", seed ", seed), func(t *testing.T) {
			h := startHost(t, HostSpec{Guests: guests, Limits: metaservice.Limits{Requests: 1e6, RequestBurst: 1e6, LogEnd: time.Minute}})
			a := attack(t, h, "resolve at random", map[string]string{
				"steps": fmt.Sprint(steps), "seed": fmt.Sprint(seed), "addresses": strings.Join(h.guests, " "),
			})
			tally := a.wait(t)
			if tally.Counts["steps"] != int64(guests*steps) {
				t.Fatalf("%d steps", tally.Counts["steps"])
			}
			kinds := make(map[string]int)
			for guest := range guests {
				var m model
				if err := json.Unmarshal([]byte(tally.Texts[fmt.Sprint(guest)]), &m); err != nil {
					t.Fatal(err)
				}
				for _, wrong := range m.Wrong {
					t.Errorf("guest %d: %s", guest, wrong)
				}
				ended := within(t, time.Minute, "the outcome", begin[Ended](t, h, "Outcome", Ask{Guest: guest}))
				if ended.Succeeded != (m.Success && !m.Broken) || ended.is(metaservice.ErrLogIncomplete) != m.Broken {
					t.Errorf("guest %d: the outcome is %+v, with %+v", guest, ended, m)
				}
				if ended.Bytes < m.Bytes || ended.Bytes > m.Most {
					t.Errorf("guest %d: the log has %d bytes, not from %d to %d", guest, ended.Bytes, m.Bytes, m.Most)
				}
				kinds[fmt.Sprintf("success %t, broken %t", m.Success, m.Broken)]++
			}
			if len(kinds) < 4 && guests >= 400 {
				t.Errorf("not all kinds came to pass: %v", kinds)
			}
			t.Log(kinds)
		})
	}
}
