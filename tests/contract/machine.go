package contract

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice/ports"
)

// machinePatience bounds every wait of the suites: a guest may be a whole system that has to boot.
const machinePatience = 3 * time.Minute

// Machine is the suite of ports.Machine, with guest-tools, or what behaves like them, in the guest. Each
// of its tests ends with nothing left in this process.
func Machine(t *testing.T, newMachine func(t *testing.T) ports.Machine) {
	for name, test := range map[string]func(*testing.T, ports.Machine){
		"a guest calls its host":      machineCalls,
		"stop before the first call":  machineStopEarly,
		"stop in a hurry":             machineStopHurry,
		"stop from many sides":        machineStopMany,
		"boot with a ctx that ended":  machineBootEnded,
		"boot's ctx bounds boot only": machineBootContext,
		"two guests":                  machineTwo,
	} {
		t.Run(name, func(t *testing.T) {
			nothingLeft(t)
			test(t, newMachine(t))
		})
	}
}

// MachineDeath is the suite of ports.Machine for guests that end by themselves once they have called.
func MachineDeath(t *testing.T, newMachine func(t *testing.T) ports.Machine) {
	t.Run("a guest that dies", func(t *testing.T) {
		nothingLeft(t)
		host := &machineHost{}
		guest := bootGuest(t, newMachine(t), host)
		waitDone(t, guest)
		if host.calls.Load() == 0 {
			t.Error("it never called")
		}
		if err := guest.Err(); err == nil {
			t.Error("nothing tells why it died")
		}
		stopGuest(t, context.Background(), guest)
		if err := guest.Err(); err != nil {
			t.Errorf("after Stop: %v", err)
		}
	})
	t.Run("a guest that nobody stops in time", func(t *testing.T) {
		nothingLeft(t)
		guest := bootGuest(t, newMachine(t), &machineHost{})
		waitDone(t, guest)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		stopGuest(t, ctx, guest)
	})
}

// machineHost is a host with one task, which goes on for longer than any test.
type machineHost struct {
	calls   atomic.Int64
	running atomic.Int64
	once    sync.Once
	first   chan struct{} // closed at the first call; made by called
	mu      sync.Mutex
}

func (h *machineHost) called() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.first == nil {
		h.first = make(chan struct{})
	}
	return h.first
}

func (h *machineHost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.running.Add(1)
	defer h.running.Add(-1)
	h.calls.Add(1)
	h.once.Do(func() { close(h.called()) })
	switch {
	case strings.HasSuffix(r.URL.Path, "/execute"):
		_, _ = io.WriteString(w, `{"env": {"PATH": "/usr/local/bin:/usr/bin:/bin"}, "command": ["sleep", "1000"]}`)
	case strings.HasSuffix(r.URL.Path, "/poll"):
		select {
		case <-r.Context().Done():
		case <-time.After(25 * time.Second):
		}
		_, _ = io.WriteString(w, `{"id": "", "type": "none", "path": "", "command": null, "tty": false}`)
	case strings.HasPrefix(r.URL.Path, "/engine/v1/"):
		_, _ = io.Copy(io.Discard, r.Body)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"code": "NoSuchEndPoint", "message": "this host speaks version 1"}`)
	}
}

func bootGuest(t *testing.T, machine ports.Machine, host *machineHost) ports.Guest {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), machinePatience)
	defer cancel()
	guest, err := machine.Boot(ctx, ports.BootOptions{Handler: host})
	if err != nil {
		t.Fatalf("Boot: %v", err)
	}
	t.Cleanup(func() { _ = guest.Stop(context.Background()) })
	return guest
}

func waitCall(t *testing.T, guest ports.Guest, host *machineHost) {
	t.Helper()
	select {
	case <-host.called():
	case <-guest.Done():
		t.Fatalf("the guest ended without a call: %v", guest.Err())
	case <-time.After(machinePatience):
		t.Fatal("the guest did not call")
	}
}

func waitDone(t *testing.T, guest ports.Guest) {
	t.Helper()
	select {
	case <-guest.Done():
	case <-time.After(machinePatience):
		t.Fatal("the guest did not end")
	}
}

// stopGuest stops a guest, and sees that it is.
func stopGuest(t *testing.T, ctx context.Context, guest ports.Guest) {
	t.Helper()
	if err := guest.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	select {
	case <-guest.Done():
	default:
		t.Error("Stop returned before the guest was done")
	}
}

func machineCalls(t *testing.T, machine ports.Machine) {
	host := &machineHost{}
	guest := bootGuest(t, machine, host)
	waitCall(t, guest, host)
	select {
	case <-guest.Done():
		t.Fatalf("the guest ended: %v", guest.Err())
	default:
	}
	if err := guest.Err(); err != nil {
		t.Errorf("a guest that runs has the error %v", err)
	}
	stopGuest(t, context.Background(), guest)
	if err := guest.Err(); err != nil {
		t.Errorf("a guest that was stopped has the error %v", err)
	}
	if !within(func() bool { return host.running.Load() == 0 }) { // a handler may still be on its way out
		t.Errorf("%d requests are still served", host.running.Load())
	}
}

func machineStopEarly(t *testing.T, machine ports.Machine) {
	stopGuest(t, context.Background(), bootGuest(t, machine, &machineHost{}))
}

func machineStopHurry(t *testing.T, machine ports.Machine) {
	host := &machineHost{}
	guest := bootGuest(t, machine, host)
	waitCall(t, guest, host)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	stopGuest(t, ctx, guest)
}

func machineStopMany(t *testing.T, machine ports.Machine) {
	host := &machineHost{}
	guest := bootGuest(t, machine, host)
	waitCall(t, guest, host)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { stopGuest(t, context.Background(), guest) })
	}
	all.Wait()
	stopGuest(t, context.Background(), guest)
}

func machineBootEnded(t *testing.T, machine ports.Machine) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	guest, err := machine.Boot(ctx, ports.BootOptions{Handler: &machineHost{}})
	if err == nil {
		stopGuest(t, context.Background(), guest)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Boot: %v", err)
	}
}

func machineBootContext(t *testing.T, machine ports.Machine) {
	host := &machineHost{}
	guest := bootGuest(t, machine, host) // whose ctx has ended when it returns
	waitCall(t, guest, host)
	stopGuest(t, context.Background(), guest)
}

func machineTwo(t *testing.T, machine ports.Machine) {
	var hosts [2]machineHost
	var guests [2]ports.Guest
	for i := range guests {
		guests[i] = bootGuest(t, machine, &hosts[i])
	}
	for i := range guests {
		waitCall(t, guests[i], &hosts[i])
	}
	stopGuest(t, context.Background(), guests[0])
	select {
	case <-guests[1].Done():
		t.Errorf("the other guest ended, too: %v", guests[1].Err())
	default:
	}
	stopGuest(t, context.Background(), guests[1])
}
