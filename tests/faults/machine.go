package faults

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/ports"
)

// Guest is a machine's guest: it finds its host at a TCP address, and lives until life ends. An error is what
// its machine died of; after a nil the machine stays up without it.
type Guest func(life context.Context, address string, options []byte) error

// Machine is a ports.Machine that serves on loopback, and whose guests are goroutines of this process.
type Machine struct{ guest Guest }

// NewMachine makes a machine whose guests are all this one.
func NewMachine(guest Guest) *Machine { return &Machine{guest: guest} }

// CheckOptions implements ports.MachineWithOptions: they are the guest's own.
func (m *Machine) CheckOptions([]byte) error { return nil }

// OptionsSchema implements ports.MachineWithOptions.
func (m *Machine) OptionsSchema() []byte { return []byte(`{"type":"object"}`) }

// Boot implements ports.Machine.
func (m *Machine) Boot(_ context.Context, options ports.BootOptions) (ports.Guest, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &booted{done: make(chan struct{})}
	b.life, b.end = context.WithCancelCause(context.Background())
	b.all.Go(func() {
		if err := httpserver.Serve(b.life, listener, options.Handler, slog.New(slog.DiscardHandler)); err != nil {
			b.end(err)
		}
	})
	b.all.Go(func() {
		if err := m.guest(b.life, listener.Addr().String(), options.Options); err != nil {
			b.end(err)
		}
		<-b.life.Done()
		close(b.done)
	})
	return b, nil
}

// booted is a guest that was booted.
type booted struct {
	life context.Context
	end  context.CancelCauseFunc
	done chan struct{}
	all  sync.WaitGroup
}

var errStopped = errors.New("it was stopped")

// Done implements ports.Guest.
func (b *booted) Done() <-chan struct{} { return b.done }

// Err implements ports.Guest.
func (b *booted) Err() error {
	select {
	case <-b.done:
	default:
		return nil
	}
	if err := context.Cause(b.life); err != errStopped {
		return err
	}
	return nil
}

// Stop implements ports.Guest.
func (b *booted) Stop(context.Context) error {
	b.end(errStopped)
	b.all.Wait()
	return nil
}

var _ ports.MachineWithOptions = (*Machine)(nil)
