package hostclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// oneShell is a host with one shell to answer for, under an id that has to be escaped.
func oneShell(t *testing.T, features domain.Features, opened chan<- *wsshell.HostShell) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != wire.PathReply || r.Header.Get("Origin") != "" {
			t.Errorf("%s %s, origin %q", r.Method, r.URL, r.Header.Get("Origin"))
		}
		if id := r.URL.Query().Get(wire.QueryID); id != "a shell&more" {
			refusal := &domain.Error{Code: domain.CodeUnknownActionID, Message: "nobody asked for " + id}
			w.WriteHeader(wire.Status(refusal.Code))
			w.Write(wire.EncodeError(refusal))
			return
		}
		shell, err := wsshell.Accept(w, r, features, ports.ShellTerms{})
		if err != nil {
			t.Error(err)
			return
		}
		opened <- shell
		shell.Serve(context.WithoutCancel(r.Context()))
	})
}

// A shell opens at the reply's path, over TCP and over unix sockets, and outlives the context that it was
// opened with. What either end doesn't know, both do without.
func TestOpenShell(t *testing.T) {
	knows := domain.Features{domain.FeatureExec, domain.FeatureShell2}
	for name, test := range map[string]struct {
		features domain.Features
		shell2   bool
		network  string
		address  string
	}{
		"version 2":                    {knows, true, "tcp", "127.0.0.1:0"},
		"version 2, over a socket":     {knows, true, "unix", filepath.Join(t.TempDir(), "s")},
		"a host that knows no shell2":  {nil, true, "tcp", "127.0.0.1:0"},
		"a guest that wants no shell2": {knows, false, "tcp", "127.0.0.1:0"},
	} {
		t.Run(name, func(t *testing.T) {
			opened := make(chan *wsshell.HostShell, 1)
			client := connect(t, oneShell(t, test.features, opened), test.network, test.address)
			ctx, cancel := context.WithCancel(t.Context())
			guest, err := client.OpenShell(ctx, "a shell&more", test.shell2)
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			host := <-opened
			go io.Copy(guest.Stdout(), guest.Stdin())
			go io.WriteString(host.StdinPipe(), "hello")
			got := make([]byte, 5)
			if _, err := io.ReadFull(host.StdoutPipe(), got); err != nil || string(got) != "hello" {
				t.Errorf("%q came back, %v", got, err)
			}
			report := domain.Report{ExitCode: 3, Reason: domain.ReasonExited}
			if err := guest.Exit(t.Context(), report); err != nil {
				t.Errorf("Exit: %v", err)
			}
			result, err := host.Result(t.Context())
			if err != nil || result.Success {
				t.Errorf("the result is %+v, %v", result, err)
			}
			if both := test.shell2 && test.features != nil; both != (result.Report != nil) {
				t.Errorf("the report is %v", result.Report)
			}
		})
	}
}

// A refusal is the host's word; anything else is the way to it.
func TestOpenShellRefused(t *testing.T) {
	client := connect(t, oneShell(t, nil, nil), "tcp", "127.0.0.1:0")
	_, err := client.OpenShell(t.Context(), "another", true)
	refusal, ok := errors.AsType[*domain.Error](err)
	if !ok || refusal.Code != domain.CodeUnknownActionID || refusal.Message != "nobody asked for another" {
		t.Errorf("it is refused with %v", err)
	}
	for name, answer := range map[string]string{
		"an answer that is none":        "hello\r\n\r\n",
		"no answer":                     "",
		"an upgrade to something else":  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tea\r\n\r\n",
		"an upgrade with another's key": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
		"success":                       "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"a way to somewhere else":       "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
	} {
		client := piped(t, func(_ int, conn net.Conn) {
			defer conn.Close()
			request := make([]byte, 4096)
			conn.Read(request)
			io.WriteString(conn, answer)
		})
		shell, err := client.OpenShell(t.Context(), "x", true)
		if err == nil {
			shell.Close()
			t.Errorf("%s is taken for a shell", name)
		}
		if errors.Is(err, &domain.Error{Code: domain.CodeUnknownActionID}) {
			t.Errorf("%s: %v", name, err)
		}
		client.Close()
	}
}

// A host that says nothing to the handshake is given up as with any request.
func TestOpenShellThatIsNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := piped(t, silent)
		defer client.Close()
		start := time.Now()
		_, err := client.OpenShell(t.Context(), "x", true)
		if took := time.Since(start); took != 30*time.Second || err == nil || !strings.Contains(err.Error(), "the host did not answer in time") {
			t.Errorf("after %s it returned %v", took, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the guest ends")
		time.AfterFunc(time.Second, func() { cancel(why) })
		if _, err := client.OpenShell(ctx, "x", true); !errors.Is(err, why) {
			t.Errorf("it returned %v", err)
		}
	})
}

var _ ports.Host = (*hostclient.Client)(nil)
