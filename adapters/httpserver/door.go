package httpserver

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// door is a guest's listener that lets in so many connections at once, and no more than so many in a time.
// Who is one too many waits outside: an answer, or a closed connection, would only have a guest dial again.
// It wraps no connection: their own type is what sendfile and the look at a socket need.
type door struct {
	net.Listener
	log    *slog.Logger
	news   chan struct{} // room for one: somebody left, or was claimed
	once   sync.Once
	closed chan struct{}

	mu        sync.Mutex // guards what follows
	inside    map[net.Conn]*member
	unclaimed int // of them
	moments   uint64
	rate      *domain.Rate
	waits     domain.Seldom
}

// member is a connection that was let in.
type member struct {
	conn   net.Conn
	state  http.ConnState
	moment uint64 // at which it became idle
	claims int
	lately bool      // it was claimed, and no other request has begun since
	free   bool      // it doesn't count as an accept
	asked  bool      // the headers of its request are there
	since  time.Time // when it was let in, or that request began
	held   bool      // it is detached: net/http knows nothing of it
}

// heads tells whether its request's headers are still to come.
func (m *member) heads() bool {
	return m.state == http.StateNew || m.state == http.StateActive && !m.asked
}

// counts tells whether it is one of those that nobody has claimed. One that was, and is idle, isn't: a guest
// keeps it for the next thing that its host asks for.
func (m *member) counts() bool {
	return m.claims == 0 && (!m.lately || m.state != http.StateIdle)
}

func newDoor(listener net.Listener, logger *slog.Logger) *door {
	return &door{
		Listener: listener,
		log:      logger,
		news:     make(chan struct{}, 1),
		closed:   make(chan struct{}),
		inside:   make(map[net.Conn]*member),
		rate:     domain.NewRate(Accepts, AcceptBurst),
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Listener.Close()
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !d.wait(0, "it opens them faster than its host takes them in", d.pace) ||
		!d.wait(longWait, "it has as many as it may have", func() time.Duration { return d.enter(conn) }) {
		conn.Close()
		return nil, net.ErrClosed
	}
	return conn, nil
}

// longWait is how long a wait for room is worth no word: of many connections that the host asked for at once,
// each is claimed only when its request is there.
const longWait = time.Second

// wait waits until try says that there is nothing to wait for, or the door is closed. try tells when to try
// again at the latest. The log is told of what takes as long as worth, or longer.
func (d *door) wait(worth time.Duration, why string, try func() time.Duration) (open bool) {
	again := try()
	if again <= 0 {
		return true
	}
	tell := time.AfterFunc(worth, func() { d.tell(why) })
	defer tell.Stop()
	timer := time.NewTimer(again)
	defer timer.Stop()
	for {
		select {
		case <-d.closed:
			return false
		case <-d.news:
		case <-timer.C:
		}
		if again = try(); again <= 0 {
			return true
		}
		timer.Reset(again)
	}
}

func (d *door) tell(why string) {
	d.mu.Lock()
	told, times := d.waits.Again(), d.waits
	d.mu.Unlock()
	if told {
		d.log.Warn("a guest's connection has to wait: "+why, "time", uint64(times))
	}
}

// pace takes a token for an accept, or tells when there is one.
func (d *door) pace() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.rate.Take(now) {
		return 0
	}
	return d.rate.Wait(now)
}

// untilNews is a wait that only news ends.
const untilNews = time.Hour

// enter lets a connection in, if there is room, or can be made; else it tells when to try again.
func (d *door) enter(conn net.Conn) time.Duration {
	again, out := d.makeRoom(conn, time.Now())
	if out != nil {
		out.Close() // as http.Server does with those that are idle
	}
	return again
}

// makeRoom lets a connection in, if there is room, or another can be put out for it, which the caller closes.
// That is one that is idle, or one whose headers take too long for others to wait for: else a task that sends
// none would keep its guest's tools waiting, of which nothing can be known before theirs are there.
func (d *door) makeRoom(conn net.Conn, now time.Time) (again time.Duration, out net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	again = untilNews
	if d.unclaimed >= Unclaimed {
		if out = d.putOut((*member).counts); out == nil {
			out, again = d.putOutSlow(now)
		}
	} else if len(d.inside) >= Connections {
		out = d.putOut(func(*member) bool { return true })
	}
	if d.unclaimed >= Unclaimed || len(d.inside) >= Connections {
		return again, out
	}
	d.inside[conn] = &member{conn: conn, state: http.StateNew, since: now}
	d.unclaimed++
	return 0, out
}

// putOutSlow takes out that one whose headers are awaited longest, if that is too long, and else tells when it
// will be; d.mu must be held.
func (d *door) putOutSlow(now time.Time) (out net.Conn, again time.Duration) {
	var slowest *member
	for _, m := range d.inside {
		if m.heads() && m.counts() && (slowest == nil || m.since.Before(slowest.since)) {
			slowest = m
		}
	}
	if slowest == nil {
		return nil, untilNews
	}
	if left := CrowdedHeaderTimeout - now.Sub(slowest.since); left > 0 {
		return nil, left
	}
	d.leave(slowest)
	return slowest.conn, untilNews
}

// putOut takes out that one of them that has been idle longest, if one is; d.mu must be held.
func (d *door) putOut(of func(*member) bool) net.Conn {
	var idlest *member
	for _, m := range d.inside {
		if m.state == http.StateIdle && of(m) && (idlest == nil || m.moment < idlest.moment) {
			idlest = m
		}
	}
	if idlest == nil {
		return nil
	}
	d.leave(idlest)
	return idlest.conn
}

// leave takes a member out; d.mu must be held.
func (d *door) leave(m *member) {
	if d.inside[m.conn] != m {
		return
	}
	delete(d.inside, m.conn)
	if m.counts() {
		d.unclaimed--
	}
}

// change changes a member, and counts anew.
func (d *door) change(conn net.Conn, how func(*member)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.inside[conn]
	if m == nil { // it was closed to make room
		return
	}
	before := m.counts()
	how(m)
	switch after := m.counts(); {
	case before && !after:
		d.unclaimed--
	case !before && after:
		d.unclaimed++
	}
	if m.state == http.StateClosed || m.state == http.StateHijacked && m.claims == 0 && !m.held {
		d.leave(m)
	}
	select {
	case d.news <- struct{}{}:
	default: // there are some already
	}
}

// changed is http.Server.ConnState. A connection that is hijacked is inside for as long as it is claimed.
func (d *door) changed(conn net.Conn, state http.ConnState) {
	d.change(conn, func(m *member) {
		if m.held && state == http.StateHijacked {
			return // it is as active as it was
		}
		began := m.state == http.StateIdle
		m.state = state
		switch state {
		case http.StateNew, http.StateActive: // new is one that net/http has back
			m.lately, m.asked = false, false
			if began {
				m.since = time.Now()
			}
		case http.StateIdle:
			d.moments++
			m.moment = d.moments
		}
	})
}

type doorKey struct{}

// known has the requests of a connection tell of their headers.
func (d *door) known(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, doorKey{}, func() { d.change(conn, func(m *member) { m.asked = true }) })
}

// heard notes for each request that its headers are there.
func heard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if heard, ok := r.Context().Value(doorKey{}).(func()); ok {
			heard()
		}
		next.ServeHTTP(w, r)
	})
}

// claimOf is wire.Conn.Claim of a connection.
func (d *door) claimOf(conn net.Conn) func() (release func()) {
	return func() (release func()) {
		d.change(conn, func(m *member) {
			m.claims++
			m.lately = true
			if !m.free {
				m.free = true
				d.rate.Give()
			}
		})
		return sync.OnceFunc(func() { d.change(conn, func(m *member) { m.claims-- }) })
	}
}

// hold keeps a connection inside that net/http is about to forget, until letGo.
func (d *door) hold(conn net.Conn) { d.change(conn, func(m *member) { m.held = true }) }

func (d *door) letGo(conn net.Conn) { d.change(conn, func(m *member) { m.held = false }) }

// held are the connections that are detached, as far as which says.
func (d *door) held(which func(*member) bool) (conns []net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn, m := range d.inside {
		if m.held && which(m) {
			conns = append(conns, conn)
		}
	}
	return conns
}

// closeHeld closes what net/http doesn't.
func (d *door) closeHeld() {
	for _, conn := range d.held(func(*member) bool { return true }) {
		conn.Close() // whoever holds it sees that
	}
}

// awaitHeld waits until all that are detached have had their answers, or ctx ends, as http.Server.Shutdown does for
// the others.
func (d *door) awaitHeld(ctx context.Context) {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for len(d.held(func(m *member) bool { return m.state != http.StateIdle })) > 0 {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return
		}
	}
}
