package contract

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/ports"
)

// MachineToken is the suite of ports.MachineWithToken, with the real guest-tools in the guest.
func MachineToken(t *testing.T, newMachine func(t *testing.T) ports.Machine) {
	t.Run("guest-tools have their token", func(t *testing.T) {
		nothingLeft(t)
		machine := withToken(t, newMachine(t))
		const token = "a-token-of-this-very-guest.0123456789-_~+/="
		host := &tokenHost{machineHost: new(machineHost), polled: make(chan struct{})}
		bootWith(t, machine, ports.BootOptions{Handler: host, Token: token})
		host.await(t)
		for _, request := range host.seen() {
			if !strings.HasSuffix(request, " Bearer "+token) {
				t.Errorf("a request shows no token, or another: %s", request)
			}
		}
	})
	t.Run("guest-tools without a token", func(t *testing.T) {
		nothingLeft(t)
		host := &tokenHost{machineHost: new(machineHost), polled: make(chan struct{})}
		bootWith(t, withToken(t, newMachine(t)), ports.BootOptions{Handler: host})
		host.await(t)
		for _, request := range host.seen() {
			if !strings.HasSuffix(request, " ") {
				t.Errorf("a request shows a token that nobody gave: %s", request)
			}
		}
	})
}

func withToken(t *testing.T, machine ports.Machine) ports.MachineWithToken {
	t.Helper()
	with, ok := machine.(ports.MachineWithToken)
	if !ok {
		t.Fatalf("a %T hands no token over", machine)
	}
	return with
}

func bootWith(t *testing.T, machine ports.Machine, options ports.BootOptions) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), machinePatience)
	defer cancel()
	guest, err := machine.Boot(ctx, options)
	if err != nil {
		t.Fatalf("Boot: %v", err)
	}
	t.Cleanup(func() {
		if err := guest.Stop(context.Background()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
}

// tokenHost keeps what each request shows.
type tokenHost struct {
	*machineHost
	polled chan struct{}
	once   sync.Once

	requests sync.Mutex // guards shown
	shown    []string
}

func (h *tokenHost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests.Lock()
	h.shown = append(h.shown, fmt.Sprintf("%s %s %s", r.Method, r.URL.Path, strings.Join(r.Header["Authorization"], ", ")))
	h.requests.Unlock()
	if strings.HasSuffix(r.URL.Path, "/poll") {
		h.once.Do(func() { close(h.polled) })
	}
	h.machineHost.ServeHTTP(w, r)
}

// await waits for the first poll: hello and execute came before it.
func (h *tokenHost) await(t *testing.T) {
	t.Helper()
	select {
	case <-h.polled:
	case <-time.After(machinePatience):
		t.Fatalf("the guest did not poll; it made these requests: %q", h.seen())
	}
}

func (h *tokenHost) seen() []string {
	h.requests.Lock()
	defer h.requests.Unlock()
	return append([]string(nil), h.shown...)
}
