package wsshell_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// openToOldGuest connects our host end to an old guest.
func openToOldGuest(t *testing.T, features domain.Features, spec domain.ShellSpec) (*wsshell.HostShell, *oldPeer) {
	t.Helper()
	shells, served := make(chan *wsshell.HostShell, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(served)
		if err := wsshell.CheckHandshake(r); err != nil {
			t.Error(err)
		}
		shell, err := wsshell.Accept(w, r, features, ports.ShellTerms{Spec: spec, Memory: plenty{}})
		if err != nil {
			t.Error(err)
		}
		shells <- shell
		shell.Serve(ctx)
	}))
	dialer := websocket.Dialer{HandshakeTimeout: 30 * time.Second, ReadBufferSize: oldBuffer, WriteBufferSize: oldBuffer}
	ws, _, err := dialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	guest := newOldPeer(t, ws)
	t.Cleanup(func() {
		cancel()
		<-served
		guest.wait(func() bool { return false }) // until it has read the end
		ws.Close()
		server.Close()
	})
	return <-shells, guest
}

// An old guest's cat: both outputs come back equal, the guest's windows are kept, and it is asked for no
// end of its connection: it leaves that open.
func TestOldGuestEcho(t *testing.T) {
	large, small := sizes()
	for name, test := range map[string]struct {
		stream byte
		size   int
	}{"cat": {1, large}, "cat 1>&2": {2, small}} {
		t.Run(name, func(t *testing.T) {
			host, guest := openToOldGuest(t, nil, oldShell)
			go func() {
				_, err := io.Copy(sender{guest, test.stream}, onlyReader{receiver{guest, 0}})
				if err != nil {
					t.Error(err)
				}
				sender{guest, 1}.Close()
				sender{guest, 2}.Close()
				guest.exit(true)
			}()
			sent := random(test.size)
			go func() {
				if _, err := host.StdinPipe().Write(sent); err != nil {
					t.Error(err)
				}
				if err := host.StdinPipe().Close(); err != nil {
					t.Error(err)
				}
			}()
			pipes := map[byte]io.Reader{1: host.StdoutPipe(), 2: host.StderrPipe()}
			got, err := io.ReadAll(pipes[test.stream])
			sameBytes(t, name, got, sent, err)
			rest, err := io.ReadAll(pipes[3-test.stream])
			sameBytes(t, "the other output", rest, nil, err)
			if success, err := host.Wait(); !success || err != nil {
				t.Errorf("Wait: %v, %v", success, err)
			}
		})
	}
}

type onlyReader struct{ io.Reader }

// A host with room says so once the first output has come, so that an old guest doesn't wait for it every
// 64 KiB. Nobody reads here: each output stalls by itself, at what was granted.
func TestOldGuestGetsCreditAhead(t *testing.T) {
	host, guest := openToOldGuest(t, nil, oldShell)
	guest.seen(func() {
		if len(guest.grants[1]) > 0 {
			t.Error("credit was granted before any output")
		}
	})
	data := random(2 << 20)
	for _, stream := range []byte{1, 2} {
		go func() {
			if _, err := (sender{guest, stream}).Write(data); err != nil {
				t.Error(err)
			}
			sender{guest, stream}.Close()
		}()
		if !guest.wait(func() bool { return guest.sent[stream] == domain.ShellAhead && guest.credit[stream] == 0 }) {
			t.Fatal("the connection ended")
		}
		guest.seen(func() {
			if len(guest.grants[stream]) != 1 || guest.grants[stream][0] != domain.ShellAhead-oldWindow {
				t.Errorf("stream %d was granted %v", stream, guest.grants[stream])
			}
		})
	}
	for what, pipe := range map[string]io.Reader{"stdout": host.StdoutPipe(), "stderr": host.StderrPipe()} {
		got, err := io.ReadAll(pipe)
		sameBytes(t, what, got, data, err)
	}
	guest.exit(false)
	if success, err := host.Wait(); success || err != nil {
		t.Errorf("Wait: %v, %v", success, err)
	}
}

// An old guest whose command reads nothing has 64 KiB of its input, and not a byte more: it would fail.
func TestOldGuestsWindowIsKept(t *testing.T) {
	host, guest := openToOldGuest(t, nil, oldShell)
	written := make(chan error, 1)
	data := random(1 << 20)
	go func() {
		_, err := host.StdinPipe().Write(data)
		written <- err
	}()
	for round := range 3 {
		if !guest.wait(func() bool { return len(guest.inbox[0]) == oldWindow }) {
			t.Fatal("the connection ended")
		}
		got := make([]byte, oldWindow)
		_, err := io.ReadFull(receiver{guest, 0}, got)
		sameBytes(t, "a window", got, data[round*oldWindow:(round+1)*oldWindow], err)
	}
	if err := host.Abort(); err != nil {
		t.Error(err)
	}
	if err := <-written; !errors.Is(err, domain.ErrShellAborted) {
		t.Errorf("the write that was stuck: %v", err)
	}
	guest.wait(func() bool { return guest.aborted })
	guest.seen(func() {
		if !guest.aborted || guest.most[0] > oldWindow {
			t.Errorf("aborted %v, the most in its pipe were %d", guest.aborted, guest.most[0])
		}
	})
	// Its way to abort: Exit before the streams' ends, if they end at all.
	guest.exit(false)
	if _, err := host.Wait(); !errors.Is(err, domain.ErrShellAborted) {
		t.Errorf("Wait: %v", err)
	}
}

// A size crashes an old guest whose shell failed to start. It gets the newest one, once it has said
// something.
func TestOldGuestsSizeWaitsForOutput(t *testing.T) {
	host, guest := openToOldGuest(t, nil, domain.ShellSpec{TTY: true, Columns: 132, Rows: 50})
	// Something that is sent after the size would be, so that it can be seen that the size wasn't.
	if _, err := host.StdinPipe().Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	guest.wait(func() bool { return len(guest.inbox[0]) == 1 })
	sender{guest, 1}.Write([]byte("$ "))
	guest.wait(func() bool { return len(guest.sizes) > 0 })
	if err := host.SetSize(100, 30); err != nil {
		t.Error(err)
	}
	guest.wait(func() bool { return len(guest.sizes) == 2 })
	guest.seen(func() {
		if strings.Join(guest.sizes, " ") != "132x50 100x30" {
			t.Errorf("the sizes are %v", guest.sizes)
		}
	})
	sender{guest, 1}.Close() // with a terminal it never ends stderr
	guest.exit(true)
	for what, want := range map[string]string{"stdout": "$ ", "stderr": ""} {
		pipe := map[string]io.Reader{"stdout": host.StdoutPipe(), "stderr": host.StderrPipe()}[what]
		got, err := io.ReadAll(pipe)
		sameBytes(t, what, got, []byte(want), err)
	}
	if success, err := host.Wait(); !success || err != nil {
		t.Errorf("Wait: %v, %v", success, err)
	}
}

// An old guest without a terminal never says that its process has ended while its input is open. Where both
// outputs have ended, and nobody writes, the host ends the input.
func TestOldGuestWaitsForItsInput(t *testing.T) {
	host, guest := openToOldGuest(t, nil, oldShell)
	go func() {
		sender{guest, 1}.Close()
		sender{guest, 1}.Close() // said twice, it is no end of the other one
		guest.wait(func() bool { return len(guest.inbox[0]) > 0 })
		sender{guest, 2}.Close()
		guest.wait(func() bool { return guest.ended[0] })
		guest.exit(true)
	}()
	if _, err := io.ReadAll(host.StdoutPipe()); err != nil {
		t.Error(err)
	}
	if _, err := host.StdinPipe().Write([]byte("x")); err != nil {
		t.Errorf("the input, while an output goes on: %v", err)
	}
	if success, err := host.Wait(); !success || err != nil {
		t.Errorf("Wait: %v, %v", success, err)
	}
}

// NoStdin is the host's to see to; of a terminal the input is left open, for its end would end the shell.
func TestOldGuestWithoutInput(t *testing.T) {
	for _, tty := range []bool{false, true} {
		host, guest := openToOldGuest(t, nil, domain.ShellSpec{TTY: tty, NoStdin: true})
		if _, err := host.StdinPipe().Write([]byte("x")); err == nil {
			t.Errorf("terminal %v: a write to an input that isn't there is fine", tty)
		}
		if !tty {
			guest.wait(func() bool { return guest.ended[0] })
		}
		sender{guest, 1}.Write([]byte("x"))
		sender{guest, 1}.Close()
		sender{guest, 2}.Close()
		guest.exit(true)
		if success, err := host.Wait(); !success || err != nil {
			t.Errorf("terminal %v: Wait: %v, %v", tty, success, err)
		}
		guest.wait(func() bool { return false })
		guest.seen(func() {
			if guest.ended[0] == tty || len(guest.inbox[0]) > 0 {
				t.Errorf("terminal %v: the input has ended: %v; in it are %d bytes", tty, guest.ended[0], len(guest.inbox[0]))
			}
		})
	}
}
