package wsshell_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// pair is both ends of a shell, connected by a server.
type pair struct {
	host   *wsshell.HostShell
	guest  *wsshell.GuestShell
	served chan struct{} // closed when Serve has returned
	cancel context.CancelCauseFunc
}

// plenty is a ports.ShellMemory without an end.
type plenty struct{}

func (plenty) Take(want int64) int64 { return want }
func (plenty) Give(int64)            {}

var version2 = domain.Features{domain.FeatureExec, domain.FeatureShell2}

// connect connects both ends over listener, which is dial's other side.
func connect(t testing.TB, listener net.Listener, dial func(context.Context) (net.Conn, error), features domain.Features, spec domain.ShellSpec) *pair {
	t.Helper()
	return connectOn(t, listener, dial, features, ports.ShellTerms{Spec: spec, Memory: plenty{}})
}

// connectOn is connect on other terms.
func connectOn(t testing.TB, listener net.Listener, dial func(context.Context) (net.Conn, error), features domain.Features, terms ports.ShellTerms) *pair {
	t.Helper()
	p := &pair{served: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(context.Background())
	p.cancel = cancel
	hosts := make(chan *wsshell.HostShell, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(p.served)
		if err := wsshell.CheckHandshake(r); err != nil {
			t.Error(err)
		}
		host, err := wsshell.Accept(w, r, features, terms)
		if err != nil {
			t.Error(err)
		}
		hosts <- host
		host.Serve(ctx)
	}))
	server.Listener = listener
	server.Start()
	guest, err := wsshell.Dial(t.Context(), wsshell.Target{
		URL: "http://host/reply", Dial: dial, Shell2: features.Has(domain.FeatureShell2),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.guest, p.host = guest, <-hosts
	t.Cleanup(func() {
		p.cancel(context.Canceled)
		p.guest.Close()
		<-p.served
		server.Close()
	})
	return p
}

// tcpPair is a pair over TCP on loopback.
func tcpPair(t testing.TB, features domain.Features, spec domain.ShellSpec) *pair {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, listener, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
	}, features, spec)
}
