package wsshell_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// openToOldHost connects our guest end to an old host. What a newer guest offers, an old host ignores.
func openToOldHost(t *testing.T, shell2 bool) (*wsshell.GuestShell, *oldPeer) {
	t.Helper()
	hosts := make(chan *oldPeer, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{ReadBufferSize: oldBuffer, WriteBufferSize: oldBuffer}
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
		}
		host := newOldPeer(t, ws)
		hosts <- host
		host.wait(func() bool { return false })
		ws.Close()
	}))
	guest, err := wsshell.Dial(t.Context(), wsshell.Target{
		URL: server.URL,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
		Shell2: shell2,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		guest.Close()
		server.Close()
	})
	return guest, <-hosts
}

// A new guest's cat on an old host: byte-exact, never above the old host's windows, and the exit is one
// that an old host knows.
func TestOldHostEcho(t *testing.T) {
	large, small := sizes()
	for name, test := range map[string]struct {
		stream byte
		size   int
		shell2 bool
	}{"cat": {1, large, false}, "cat 1>&2": {2, small, false}, "cat, with an offer": {1, small, true}} {
		t.Run(name, func(t *testing.T) {
			guest, host := openToOldHost(t, test.shell2)
			exited := make(chan error, 1)
			go func() {
				out := map[byte]io.WriteCloser{1: guest.Stdout(), 2: guest.Stderr()}[test.stream]
				if _, err := io.Copy(out, guest.Stdin()); err != nil {
					t.Error(err)
				}
				guest.Stdout().Close()
				guest.Stderr().Close()
				exited <- guest.Exit(t.Context(), domain.Report{ExitCode: 3, Reason: domain.ReasonExited})
			}()
			sent := random(test.size)
			go func() {
				sender{host, 0}.Write(sent)
				sender{host, 0}.Close()
			}()
			got, err := io.ReadAll(receiver{host, test.stream})
			sameBytes(t, name, got, sent, err)
			rest, err := io.ReadAll(receiver{host, 3 - test.stream})
			sameBytes(t, "the other output", rest, nil, err)
			if err := <-exited; err != nil {
				t.Errorf("Exit: %v", err)
			}
			host.wait(func() bool { return false })
			host.seen(func() {
				if diff := cmp.Diff([]byte{1}, host.exits); diff != "" {
					t.Errorf("the exits it was told (-want +got):\n%s", diff)
				}
				if !websocket.IsCloseError(host.gone, websocket.CloseNormalClosure) {
					t.Errorf("its connection ended with %v", host.gone)
				}
				if test.size == large && len(host.grants[0]) > 0 && host.grants[0][0] < domain.ShellAhead-oldWindow {
					t.Errorf("it was granted %d first: not ahead", host.grants[0][0])
				}
			})
		})
	}
}

// An old host has room for 64 KiB of what nobody reads, and fails above it.
func TestOldHostsWindowIsKept(t *testing.T) {
	guest, host := openToOldHost(t, true)
	data := random(1 << 20)
	copied := make(chan error, 2)
	go func() {
		_, err := guest.Stdout().Write(data)
		copied <- err
	}()
	go func() {
		_, err := io.Copy(guest.Stderr(), onlyReader{bytes.NewReader(data)})
		copied <- err
	}()
	host.wait(func() bool { return len(host.inbox[1]) == oldWindow && len(host.inbox[2]) == oldWindow })
	got := make([]byte, len(data))
	_, err := io.ReadFull(receiver{host, 1}, got)
	sameBytes(t, "stdout, while stderr stands", got, data, err)
	if err := <-copied; err != nil {
		t.Error(err)
	}
	host.seen(func() {
		if host.most[1] > oldWindow || host.most[2] != oldWindow {
			t.Errorf("the most that it held were %v", host.most)
		}
	})
	host.say(4)
	if err := <-copied; !errors.Is(err, domain.ErrShellAborted) {
		t.Errorf("the write that was stuck: %v", err)
	}
	<-guest.Done()
	if err := guest.Err(); !errors.Is(err, domain.ErrShellAborted) {
		t.Errorf("Err: %v", err)
	}
	if _, err := guest.Stdin().Read(make([]byte, 1)); !errors.Is(err, domain.ErrShellAborted) {
		t.Errorf("the input: %v", err)
	}
}

// An old host sends sizes, and messages of types that this version doesn't know are passed over.
func TestOldHostsSizes(t *testing.T) {
	guest, host := openToOldHost(t, false)
	host.say(2, 1, 2, 3)
	host.say(3, 0, 132, 0, 50)
	if got := <-guest.Sizes(); got != (ports.TerminalSize{Columns: 132, Rows: 50}) {
		t.Errorf("the size is %v", got)
	}
	host.say(9)
	for columns := range 100 {
		host.say(3, 0, byte(columns), 0, 50)
	}
	host.say(0, 0, 'x')
	if _, err := io.ReadFull(guest.Stdin(), make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if got := <-guest.Sizes(); got.Columns != 99 {
		t.Errorf("of a hundred sizes that nobody saw it is the one of %d columns that is left", got.Columns)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := guest.Exit(ctx, domain.Report{Reason: domain.ReasonExited}); err != nil {
		t.Errorf("Exit: %v", err)
	}
	select {
	case <-guest.Done():
	default:
		t.Error("it isn't done after Exit")
	}
	if err := guest.Err(); err != nil {
		t.Errorf("Err after Exit: %v", err)
	}
}
