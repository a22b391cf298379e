// Package listenmachine is a machine that boots nothing: it listens at an address, and waits for a
// guest that somebody starts elsewhere.
package listenmachine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/hexworker/metaservice/ports"
)

// Config is what a Machine needs: Address and Serve; the rest may be zero.
type Config struct {
	// Address is where to listen: HOST:PORT, :PORT (on every address that this machine has), or
	// unix:/PATH. Port 0 is any that is free. The socket's file is for its owner alone; one that was
	// left behind by a host that is gone is replaced.
	Address string
	// Hops is how far answers go: 1 is to the guest, and not to what is behind it, such as a container in it
	// with a network of its own, or a neighbour that it routes for. 0 is 1 at a link-local address, such as that of
	// a tap, and no bound at others. A guest behind a router needs more.
	Hops int
	// Serve serves a handler until ctx ends, which is no error, or the listener fails, and closes the
	// listener.
	Serve func(ctx context.Context, listener net.Listener, handler http.Handler) error
	// Listening is told the address, as a guest on this machine can dial it, before Boot returns.
	Listening func(address string)
}

// Machine is a ports.Machine.
type Machine struct {
	config Config
	place  place
}

// New checks the configuration, and starts nothing.
func New(config Config) (*Machine, error) {
	where, err := parse(config.Address)
	if err != nil {
		return nil, err
	}
	where, err = where.withHops(config.Hops)
	if err != nil {
		return nil, err
	}
	if config.Serve == nil {
		return nil, errors.New("invalid configuration: Serve is missing")
	}
	return &Machine{config: config, place: where}, nil
}

// Boot implements ports.Machine: it listens, for one guest's whole life.
func (m *Machine) Boot(ctx context.Context, options ports.BootOptions) (ports.Guest, error) {
	if err := ports.NoMachineOptions(options.Options); err != nil {
		return nil, err
	}
	listener, err := m.place.listen(ctx)
	if err != nil {
		return nil, err
	}
	serving, stop := context.WithCancel(context.Background())
	g := &guest{cancel: stop, done: make(chan struct{})}
	go func() { // ends with Stop, or with the listener; both close done
		err := m.config.Serve(serving, listener, options.Handler)
		listener.Close()
		g.ended(err)
	}()
	if m.config.Listening != nil {
		m.config.Listening(m.place.bound(listener.Addr()))
	}
	return g, nil
}

// guest is whoever calls.
type guest struct {
	cancel func()
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	stopped bool
	err     error
}

func (g *guest) ended(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.stopped {
		if err == nil {
			err = errors.New("it has ended")
		}
		g.err = fmt.Errorf("the server that the guest talks to failed: %w", err)
	}
	close(g.done)
}

// Done implements ports.Guest. Nobody can tell that a guest elsewhere has ended: it falls silent.
func (g *guest) Done() <-chan struct{} { return g.done }

// Err implements ports.Guest.
func (g *guest) Err() error {
	select {
	case <-g.done:
	default:
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Stop implements ports.Guest: it ends every connection. The guest itself belongs to whoever started
// it, and so there is nothing to kill when ctx ends.
func (g *guest) Stop(context.Context) error {
	g.mu.Lock()
	g.stopped = true
	g.err = nil
	g.mu.Unlock()
	g.cancel()
	<-g.done
	return nil
}

var _ ports.Machine = (*Machine)(nil)
