package wsshell_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// The one suite, over both ends, in every combination of what either knows.
func TestShellContract(t *testing.T) {
	for name, knows := range map[string]struct {
		host  domain.Features // that the guest named, as far as the host knows them
		guest domain.Features // that the host named
	}{
		"version 2 at both ends": {version2, version2},
		"version 1 at both ends": {nil, nil},
		"version 1 at the host":  {nil, version2},
		"version 1 at the guest": {version2, nil},
		"a guest without shell2": {domain.Features{domain.FeatureExec}, domain.Features{domain.FeatureExec}},
		"a guest without exec":   {domain.Features{domain.FeatureShell2}, domain.Features{domain.FeatureShell2}},
	} {
		t.Run(name, func(t *testing.T) {
			if raceDetector && !*contract.Long && !strings.HasSuffix(name, "at both ends") {
				t.Skip("it shares its data as the others do; -long runs it, too")
			}
			contract.Shell(t, func(t *testing.T) contract.ShellSetup {
				g := newGuests(t, knows.host, knows.guest)
				volume, _ := sizes()
				return contract.ShellSetup{
					Open: g.open, Break: g.breakAll, Volume: volume,
					Reports: knows.host.Has(domain.FeatureShell2) && knows.guest.Has(domain.FeatureShell2),
				}
			})
		})
	}
}

// guests is the real guest, with processes in memory, and what it takes of a host: its ports.Host.
type guests struct {
	ports.Host // nil: what isn't here is never called
	t          *testing.T
	forHost    domain.Features
	forGuest   domain.Features
	listener   net.Listener
	serving    context.Context
	memory     countedMemory
	served     sync.WaitGroup
	actions    chan domain.Action

	mu      sync.Mutex // guards what follows
	next    int
	waiting map[string]*waiting
	conns   []net.Conn // of the guest
}

// waiting is a shell whose guest has yet to answer.
type waiting struct {
	spec   domain.ShellSpec
	opened chan *wsshell.HostShell
}

// newGuests starts it. When the test ends, nothing is left of it: no memory, and no goroutine.
func newGuests(t *testing.T, forHost, forGuest domain.Features) *guests {
	t.Helper()
	before := goleak.IgnoreCurrent()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	g := &guests{
		t: t, forHost: forHost, forGuest: forGuest, listener: listener, serving: serving,
		actions: make(chan domain.Action), waiting: map[string]*waiting{},
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(g.serve))
	server.Listener = listener
	server.Start()
	use, err := guest.New(guest.Config{
		Host: g, Files: struct{ ports.Files }{}, Processes: struct{ ports.Processes }{}, Shells: contract.Scripts{},
		Version: "test", BootID: "boot",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- use.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		stop()
		server.Close()
		g.served.Wait()
		if left := g.memory.taken.Load(); left != 0 {
			t.Errorf("%d bytes of the guest's memory were not given back", left)
		}
		goleak.VerifyNone(t, before)
	})
	return g
}

// countedMemory is a ports.ShellMemory without an end.
type countedMemory struct{ taken atomic.Int64 }

func (m *countedMemory) Take(want int64) int64 {
	m.taken.Add(want)
	return want
}

func (m *countedMemory) Give(n int64) { m.taken.Add(-n) }

// open implements contract.ShellSetup.
func (g *guests) open(t *testing.T, spec domain.ShellSpec) ports.ShellSession {
	t.Helper()
	w := &waiting{spec: spec, opened: make(chan *wsshell.HostShell, 1)}
	g.mu.Lock()
	g.next++
	id := strconv.Itoa(g.next)
	g.waiting[id] = w
	g.mu.Unlock()
	told := spec
	if !g.forHost.Has(domain.FeatureExec) { // then the action says no more
		told = domain.ShellSpec{Command: spec.Command, TTY: spec.TTY}
	}
	action, err := domain.ExecShell(domain.ActionID(id), told)
	if err != nil {
		t.Fatal(err)
	}
	g.actions <- action
	shell := <-w.opened
	if shell == nil {
		t.FailNow()
	}
	return shell
}

// breakAll implements contract.ShellSetup.
func (g *guests) breakAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.conns {
		conn.Close()
	}
}

func (g *guests) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	waits := g.waiting[r.URL.Path[1:]]
	g.mu.Unlock()
	defer close(waits.opened)
	g.served.Add(1)
	defer g.served.Done()
	if err := wsshell.CheckHandshake(r); err != nil {
		g.t.Error(err)
	}
	shell, err := wsshell.Accept(w, r, g.forHost, ports.ShellTerms{Spec: waits.spec, Memory: &g.memory})
	if err != nil {
		g.t.Error(err)
		return
	}
	waits.opened <- shell
	shell.Serve(g.serving)
}

// Hello implements ports.Host.
func (g *guests) Hello(context.Context, domain.Hello) (domain.Features, error) {
	return g.forGuest, nil
}

// Execute implements ports.Host: this guest has no task.
func (g *guests) Execute(context.Context) (domain.Execute, error) {
	return domain.Execute{}, &domain.Error{Code: domain.CodeResourceConflict}
}

// Poll implements ports.Host.
func (g *guests) Poll(ctx context.Context) (domain.Action, error) {
	select {
	case action := <-g.actions:
		return action, nil
	case <-ctx.Done():
		return domain.Action{}, context.Cause(ctx)
	}
}

// OpenShell implements ports.Host.
func (g *guests) OpenShell(ctx context.Context, id domain.ActionID, shell2 bool) (ports.GuestShell, error) {
	return wsshell.Dial(ctx, wsshell.Target{
		URL: "http://host/" + string(id),
		Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", g.listener.Addr().String())
			if err == nil {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.conns = append(g.conns, conn)
			}
			return conn, err
		},
		Shell2: shell2,
	})
}
