package chiapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// RefusedHold is how long the connection of a guest that asks too often is kept before it is closed, with
// nothing read off it: a guest that dials again at once, or has sent more requests already, costs its host
// one of them in that time and connection.
const RefusedHold = time.Second

// guard stands before all endpoints: it counts requests, and refuses those that came another way than from
// a guest's tools to their host.
type guard struct {
	*handler
	foreign repeated
}

// repeated counts what a guest can have the log told any number of times.
type repeated struct {
	mu    sync.Mutex // guards count
	count domain.Seldom
}

// again counts one more, and tells which it is, and whether it is to be logged.
func (r *repeated) again() (time uint64, told bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	told = r.count.Again()
	return uint64(r.count), told
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	entered, err := g.enter(r)
	switch {
	case errors.Is(err, domain.ErrTooMany):
		g.turnAway(w, r, err)
		return
	case err != nil: // it waited, and its guest or its host has ended meanwhile
		panic(http.ErrAbortHandler)
	}
	if refusal := foreign(r); refusal != nil {
		if time, told := g.foreign.again(); told {
			g.log.Warn("a request was refused that is none of a guest's tools", "why", domain.Quote(refusal.Message), "time", time)
		}
		g.refuse(w, r, refusal)
		return
	}
	entry := &entry{handler: g.handler, asked: entered.Asked}
	defer entry.end()
	if entered.Tools { // a task that holds all connections that nobody claims must not keep them out
		entry.claim(r.Context())
	}
	router().ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), entryKey{}, entry)))
}

// enter takes a request in, or tells that it is too many. What the host asked for isn't.
func (g *guard) enter(r *http.Request) (ports.Entry, error) {
	shown := wire.ShownToken(r.Header)
	if r.Method == http.MethodPost && r.URL.Path == wire.PathLog {
		return g.api.EnterLog(r.Context(), shown)
	}
	entry, err := g.api.Enter(shown)
	if err != nil && g.wanted(r, shown) {
		return ports.Entry{Asked: func() {}}, nil
	}
	return entry, err
}

// wanted tells whether a request that is too many is what the host asked for after all: a reply that uses its id
// up, or a poll that an action waits for. Each action lets in one of either, whatever comes of it: what goes on
// beyond the rate is no more than what the host asks for.
func (g *guard) wanted(r *http.Request, shown string) bool {
	if foreign(r) != nil {
		return false
	}
	switch r.URL.Path {
	case wire.PathPoll:
		return r.Method == http.MethodGet && g.api.Admit(shown) == nil && g.api.EnterPoll()
	case wire.PathReply:
		id := domain.ActionID(r.URL.Query().Get(wire.QueryID))
		action, err := g.api.Pending(id)
		return err == nil && answers(r, action) && g.api.Admit(shown) == nil && g.api.EnterReply(id)
	}
	return false
}

// answers tells whether a reply is one that uses the action's id up.
func answers(r *http.Request, action domain.Action) bool {
	if action.Kind() == domain.KindExecShell {
		return r.Method == http.MethodGet && wsshell.CheckHandshake(r) == nil
	}
	return r.Method == http.MethodPost
}

// turnAway refuses a request that is too many. Whoever takes the answer and hangs up isn't held.
func (g *guard) turnAway(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Connection", "close")
	g.refuse(w, r, err)
	hold := time.NewTimer(RefusedHold)
	defer hold.Stop()
	select {
	case <-hold.C:
	case <-r.Context().Done():
	}
}

// proxied are the headers by which a proxy is known. A task that can make a proxy ask its host must not get
// what it has no business with; and whoever forwards can't mean to reach an address that nothing routes.
var proxied = []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host"}

// foreign tells of a request that a browser sent, a proxy, or somebody who took this host for another one.
func foreign(r *http.Request) *domain.Error {
	if len(r.Header["Origin"]) > 0 { // a browser's, whose page may be anybody's
		return &domain.Error{Code: domain.CodeForbidden, Message: "a request with an Origin is none of a guest's tools"}
	}
	for _, name := range proxied {
		if len(r.Header[name]) > 0 {
			return &domain.Error{Code: domain.CodeForbidden, Message: "a request with the header " + name + " came through a proxy, and is not served"}
		}
	}
	if !wire.Answers(r.Context(), r.Host) { // a name that was made to lead here: DNS rebinding
		return &domain.Error{Code: domain.CodeMisdirectedRequest,
			Message: "this host does not go by the name " + domain.Quote(r.Host) + ": use its address, or have the name added"}
	}
	return nil
}

type entryKey struct{}

// entry is a request that was taken in. Each is one goroutine's.
type entry struct {
	handler  *handler
	asked    func()
	refunded bool
	release  func() // of the connection, once it is claimed
}

// entryOf is the entry of a request behind the guard.
func entryOf(r *http.Request) *entry {
	return r.Context().Value(entryKey{}).(*entry)
}

// claim notes that the app has a limit of its own on what the request brings.
func (e *entry) claim(ctx context.Context) {
	if e.release == nil {
		e.release = wire.Claim(ctx)
	}
}

// wanted notes that the host has asked for the request. It doesn't count.
func (e *entry) wanted(ctx context.Context) {
	if !e.refunded {
		e.refunded = true
		e.asked()
	}
	e.claim(ctx)
}

// wantedBy is the same for a request, to be called later.
func wantedBy(r *http.Request) func() {
	return func() { entryOf(r).wanted(r.Context()) }
}

func (e *entry) end() {
	if e.release != nil {
		e.release()
	}
}

// claimed is a body that the app reads only once it has taken the request, which used tells.
type claimed struct {
	ports.Body
	used func()
}

func (c claimed) Read(p []byte) (int, error) {
	c.used()
	return c.Body.Read(p)
}

// claimedReader is the same of a body without deadlines.
type claimedReader struct {
	io.Reader
	used func()
}

func (c claimedReader) Read(p []byte) (int, error) {
	c.used()
	return c.Reader.Read(p)
}
