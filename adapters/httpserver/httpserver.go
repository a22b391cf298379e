// Package httpserver is net/http's server, hardened for a peer that is hostile: a guest.
package httpserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// Limits on what comes before a handler is called.
const (
	HeaderTimeout = 5 * time.Second  // for a request's headers to come
	IdleTimeout   = 75 * time.Second // of a connection between requests
	HeaderBytes   = 16 << 10         // of a request's headers
	Connections   = 512              // at once; one more is closed
)

// joinGrace is how long Serve waits at its end for handlers that don't end with their connection.
const joinGrace = 5 * time.Second

// lastWords is how long a request that is being answered when ctx ends has to get its answer out. The
// answer to a guest's result is often under way just then, and it would take a broken connection for
// a host that never heard it.
const lastWords = 250 * time.Millisecond

// Serve serves handler on listener until ctx ends or the listener fails, and closes the listener. It
// ends every connection, within a moment, and returns when no handler runs any more. A connection that was
// hijacked is its handler's: the request's context ends, and its handler is waited for. The error is nil if
// ctx ended.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, logger *slog.Logger) error {
	gate := &gate{handler: handler, empty: make(chan struct{})}
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	server := &http.Server{
		Handler:           gate,
		BaseContext:       func(net.Listener) context.Context { return life },
		ReadHeaderTimeout: HeaderTimeout,
		IdleTimeout:       IdleTimeout,
		MaxHeaderBytes:    HeaderBytes,
		ConnContext:       connContext,
		ConnState:         (&crowd{most: Connections}).count,
		ErrorLog:          slog.NewLogLogger(quoting{logger.Handler()}, slog.LevelWarn),
	}
	answered := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(answered)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		server.Shutdown(grace)
	})
	err := server.Serve(listener)
	if !stop() {
		<-answered
	}
	server.Close()
	end(errEnded) // net/http forgets hijacked connections, and with them their requests' contexts
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

// connContext lets handlers look whether the guest has hung up.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return ctx
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ctx
	}
	return wire.WithConn(ctx, wire.Conn{HungUp: func() bool { return hungUp(raw) }})
}

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

// crowd closes the connections that are too many. It wraps none: their own type is what sendfile and the
// look at a socket need.
type crowd struct {
	most int

	mu  sync.Mutex // guards what follows
	all map[net.Conn]struct{}
}

// count is http.Server.ConnState.
func (c *crowd) count(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if len(c.all) >= c.most {
			conn.Close() // it was never counted, so its end doesn't count either
			return
		}
		if c.all == nil {
			c.all = make(map[net.Conn]struct{})
		}
		c.all[conn] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(c.all, conn)
	}
}

// quoting keeps a guest's bytes, which net/http puts into its messages, from reaching a log as they
// are.
type quoting struct{ slog.Handler }

func (q quoting) Handle(ctx context.Context, record slog.Record) error {
	quoted := slog.NewRecord(record.Time, record.Level, "http: "+domain.Quote(strings.TrimSpace(record.Message)), record.PC)
	return q.Handler.Handle(ctx, quoted)
}
