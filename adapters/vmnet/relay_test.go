package vmnet_test

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// duplex is a connection in memory whose directions end one by one.
type duplex struct {
	net.Conn // none: what isn't below is not called
	in       *io.PipeReader
	out      *io.PipeWriter
}

func (d *duplex) Read(p []byte) (int, error)  { return d.in.Read(p) }
func (d *duplex) Write(p []byte) (int, error) { return d.out.Write(p) }
func (d *duplex) CloseWrite() error           { return d.out.Close() }
func (d *duplex) Close() error {
	d.in.CloseWithError(net.ErrClosed)
	d.out.CloseWithError(io.ErrUnexpectedEOF)
	return nil
}

func duplexes() (one, other *duplex) {
	thereIn, hereOut := io.Pipe()
	hereIn, thereOut := io.Pipe()
	return &duplex{in: hereIn, out: hereOut}, &duplex{in: thereIn, out: thereOut}
}

// A connection that brings nothing is not held for ever, whichever of its directions have ended. Each byte,
// either way, gives it its time again.
func TestForwardsEndWhenNothingComes(t *testing.T) {
	const patience = time.Minute
	one := make([]byte, 1)
	for name, test := range map[string]struct {
		use  func(guest, world *duplex)
		want time.Duration
	}{
		"silent from the start": {func(_, _ *duplex) {}, patience},
		"the guest has ended":   {func(guest, _ *duplex) { guest.CloseWrite() }, patience},
		"the world has ended":   {func(_, world *duplex) { world.CloseWrite() }, patience},
		"the guest goes on": {func(guest, world *duplex) {
			for range 10 {
				time.Sleep(patience - 1)
				_, _ = guest.Write(one)
				_, _ = world.Read(one)
			}
		}, 10*(patience-1) + patience},
		"the world goes on, half closed": {func(guest, world *duplex) {
			guest.CloseWrite()
			for range 10 {
				time.Sleep(patience - 1)
				_, _ = world.Write(one)
				_, _ = guest.Read(one)
			}
		}, 10*(patience-1) + patience},
		"the guest doesn't read": {func(_, world *duplex) { _, _ = world.Write(one) }, patience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				guest, inside := duplexes()
				outside, world := duplexes()
				begun := time.Now()
				go test.use(guest, world)
				vmnet.Join(t.Context(), inside, outside, patience)
				if took := time.Since(begun); took != test.want {
					t.Errorf("it was held for %s, want %s", took, test.want)
				}
				for _, end := range []*duplex{guest, world} {
					if _, err := end.Write(one); err == nil {
						t.Error("an end takes bytes still")
					}
				}
			})
		})
	}
}

// A network's end doesn't wait for that.
func TestForwardsEndWithTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, inside := duplexes()
		outside, _ := duplexes()
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now()
		time.AfterFunc(time.Second, cancel)
		vmnet.Join(ctx, inside, outside, time.Hour)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("it was held for %s", took)
		}
	})
}
