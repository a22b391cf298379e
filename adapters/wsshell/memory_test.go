package wsshell_test

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// tallied is a ports.ShellMemory that knows what is taken.
type tallied struct{ taken atomic.Int64 }

func (m *tallied) Take(want int64) int64 {
	m.taken.Add(want)
	return want
}

func (m *tallied) Give(n int64) { m.taken.Add(-n) }

// A caller that keeps ended shells without reading them holds what they sent: another shell of that guest must
// not be promised the same memory.
func TestWhatIsUnreadAfterTheEndCounts(t *testing.T) {
	for _, how := range []string{"read", "closed"} {
		memory := new(tallied)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dial := func(context.Context) (net.Conn, error) { return net.Dial("tcp", listener.Addr().String()) }
		p := connectOn(t, listener, dial, version2, ports.ShellTerms{Memory: memory})
		const size = 600 << 10
		if _, err := p.guest.Stdout().Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := p.guest.Exit(t.Context(), domain.Report{Reason: domain.ReasonExited}); err != nil {
			t.Fatal(err)
		}
		<-p.served
		if taken := memory.taken.Load(); taken != size {
			t.Errorf("%d bytes are taken for %d that nobody has read", taken, size)
		}
		out := p.host.StdoutPipe()
		if _, err := io.ReadFull(out, make([]byte, size/2)); err != nil {
			t.Fatal(err)
		}
		if taken := memory.taken.Load(); taken != size/2 {
			t.Errorf("%d bytes are taken for the %d that are left", taken, size/2)
		}
		if how == "closed" {
			out.Close()
		} else if n, err := io.Copy(io.Discard, out); n != size/2 || err != nil {
			t.Errorf("%d bytes are left, %v", n, err)
		}
		if taken := memory.taken.Load(); taken != 0 {
			t.Errorf("%s: %d bytes are taken for nothing", how, taken)
		}
	}
}
