// Package httpserver is net/http's server, hardened for a peer that is hostile: a guest.
package httpserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
)

// Limits on what comes before a handler is called.
const (
	HeaderTimeout = 5 * time.Second  // for a request's headers to come
	IdleTimeout   = 75 * time.Second // of a connection between requests
	HeaderBytes   = 16 << 10         // of a request's headers

	// CrowdedHeaderTimeout is HeaderTimeout where another connection waits, and there is no room for it.
	CrowdedHeaderTimeout = time.Second

	// Unclaimed is how many connections there may be at once that nobody has claimed (wire.Claim): what
	// the host asked for, what it has a limit on, what the guest's tools prove to be theirs, and what a proxy
	// does are claimed. One more takes the place of the one that has been idle longest, or whose headers take
	// longer than CrowdedHeaderTimeout, or waits until there is room: it is accepted, but not read.
	Unclaimed = 16
	// Connections is how many there may be at once in all, likewise.
	Connections = 512
	// Accepts is how many are accepted in a second, AcceptBurst how many at once after a rest. One more waits.
	// Those that are claimed don't count.
	Accepts     = 50
	AcceptBurst = 200
)

// onlyHTTP1 is what guests speak. A server that isn't told so sets HTTP/2 up, for a KiB of memory.
var onlyHTTP1 = func() *http.Protocols {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return protocols
}()

// joinGrace is how long Serve waits at its end for handlers that don't end with their connection.
const joinGrace = 5 * time.Second

// lastWords is how long a request that is being answered when ctx ends has to get its answer out. The
// answer to a guest's result is often under way just then, and it would take a broken connection for
// a host that never heard it.
const lastWords = 250 * time.Millisecond

// Config says how to serve. The zero Config serves whoever dials it by an address or a name without a dot.
type Config struct {
	// Hosts are further names that guests may call this host by, such as host.example. A name with a dot can
	// be anybody's, who can make it lead here while some browser in the guest believes that it still is in
	// its own world; an address, and a name that only the guest's own network knows, can't.
	Hosts []string
}

// Serve is Config.Serve of the zero Config.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, logger *slog.Logger) error {
	return Config{}.Serve(ctx, listener, handler, logger)
}

// Serve serves handler on listener until ctx ends or the listener fails, and closes the listener. It
// ends every connection, within a moment, and returns when no handler runs any more. A connection that was
// hijacked is its handler's: the request's context ends, and its handler is waited for. The error is nil if
// ctx ended.
//
// It tells its handlers about their connections (wire.Conn).
func (c Config) Serve(ctx context.Context, listener net.Listener, handler http.Handler, logger *slog.Logger) error {
	door := newDoor(listener, logger)
	gate := &gate{handler: handler, empty: make(chan struct{})}
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	service := &service{door: door, gate: gate, life: life}
	server := &http.Server{
		Handler:           heard(gate),
		BaseContext:       func(net.Listener) context.Context { return life },
		ReadHeaderTimeout: HeaderTimeout,
		IdleTimeout:       IdleTimeout,
		MaxHeaderBytes:    HeaderBytes,
		Protocols:         onlyHTTP1,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			conn = accepted(conn)
			return wire.WithConn(door.known(ctx, conn), wire.Conn{
				HungUp:  wire.HungUpFunc(conn),
				Claim:   door.claimOf(conn),
				Answers: c.answers,
				Detach:  func(w http.ResponseWriter) (wire.Detached, error) { return service.detach(conn, w) },
			})
		},
		ConnState: func(conn net.Conn, state http.ConnState) { door.changed(accepted(conn), state) },
		// net/http would answer OPTIONS * by itself, past every limit on how often a guest may ask.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(newQuoting(logger.Handler()), slog.LevelWarn),
	}
	service.server = server
	answered := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(answered)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		server.Shutdown(grace)
		door.awaitHeld(grace)
	})
	err := server.Serve(door)
	if !stop() {
		<-answered
	}
	server.Close()
	end(errEnded) // net/http forgets hijacked connections, and with them their requests' contexts
	door.closeHeld()
	gate.close()
	grace := time.NewTimer(joinGrace)
	defer grace.Stop()
	select {
	case <-gate.empty:
	case <-grace.C:
		logger.Warn("a handler goes on though its connection has ended")
	}
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// errEnded is why a request's context ends with the server.
var errEnded = errors.New("the server has ended")

// gate counts the handlers that run, and lets none in once it is closed.
type gate struct {
	handler http.Handler
	empty   chan struct{} // closed when the gate is, and nobody is inside

	mu      sync.Mutex // guards what follows
	inside  int
	closing bool
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.enter() {
		panic(http.ErrAbortHandler)
	}
	defer g.leave()
	g.handler.ServeHTTP(w, r)
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.checkEmpty()
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing = true
	g.checkEmpty()
}

func (g *gate) checkEmpty() {
	if g.closing && g.inside == 0 {
		close(g.empty)
	}
}
