package hostclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContractOverTCP(t *testing.T) {
	contract.Host(t, func(t *testing.T, peer *contract.Peer) ports.Host {
		return connect(t, handler(peer), "tcp", "127.0.0.1:0")
	})
}

func TestContractOverUnixSockets(t *testing.T) {
	contract.Host(t, func(t *testing.T, peer *contract.Peer) ports.Host {
		return connect(t, handler(peer), "unix", filepath.Join(t.TempDir(), "s"))
	})
}

// connect serves a handler, and returns a client of it.
func connect(t testing.TB, h http.Handler, network, address string) *hostclient.Client {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(h)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	name := listener.Addr().String()
	if network == "unix" {
		name = "unix:" + name
	}
	client, err := hostclient.New(name, hostclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// handler is a small host over HTTP.
func handler(peer *contract.Peer) http.Handler {
	mux := http.NewServeMux()
	answer := func(pattern string, call func(r *http.Request) ([]byte, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			var body []byte
			err := peer.Admit(wire.ShownToken(r.Header))
			if err == nil || r.URL.Path == wire.PathToken {
				body, err = call(r)
			}
			if refusal, ok := errors.AsType[*domain.Error](err); ok {
				w.WriteHeader(wire.Status(refusal.Code))
				body = wire.EncodeError(refusal)
			} else if err != nil {
				panic(http.ErrAbortHandler)
			}
			w.Write(body)
		})
	}
	answer("POST "+wire.PathHello, func(r *http.Request) ([]byte, error) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		hello, err := wire.DecodeHello(data)
		if err != nil {
			return nil, err
		}
		features, err := peer.Hello(hello)
		return wire.EncodeFeatures(features), err
	})
	answer("POST "+wire.PathToken, func(*http.Request) ([]byte, error) {
		text, err := peer.HandToken()
		if err != nil {
			return nil, err
		}
		token, err := domain.ParseToken(text)
		return wire.EncodeToken(token), err
	})
	answer("GET "+wire.PathExecute, func(*http.Request) ([]byte, error) {
		task, err := peer.Execute()
		return wire.EncodeExecute(task), err
	})
	answer("GET "+wire.PathPoll, func(r *http.Request) ([]byte, error) {
		action, err := peer.Poll(r.Context())
		return wire.EncodeAction(action), err
	})
	answer("POST "+wire.PathLog, func(r *http.Request) ([]byte, error) { return nil, peer.Log(r.Body) })
	result := func(success bool) func(r *http.Request) ([]byte, error) {
		return func(r *http.Request) ([]byte, error) {
			data, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			res := domain.Result{Success: success}
			if len(data) > 0 {
				report, err := wire.DecodeReport(data)
				if err != nil {
					return nil, err
				}
				res.Report = &report
			}
			return nil, peer.Resolve(res)
		}
	}
	answer("PUT "+wire.PathSuccess, result(true))
	answer("PUT "+wire.PathFailed, result(false))
	answer("POST "+wire.PathReply, func(r *http.Request) ([]byte, error) { return nil, peer.Reply(readReply(r)) })
	return mux
}

func readReply(r *http.Request) contract.Reply {
	reply := contract.Reply{ID: domain.ActionID(r.URL.Query().Get(wire.QueryID))}
	if wire.IsJSON(r.Header.Get("Content-Type")) {
		reply.NotFound, reply.Broken = wire.DecodeFiles(r.Body, func(name string) error {
			reply.Files = append(reply.Files, name)
			return nil
		})
		return reply
	}
	if wire.IsTar(r.Header.Get("Content-Type")) {
		reply.Broken = wire.DecodeArchive(r.Body, func(entry domain.ArchiveEntry, content io.Reader) error {
			text, err := io.ReadAll(content)
			reply.Archive = append(reply.Archive, contract.Archived(entry.Name, string(text), entry.Failure))
			return err
		})
		return reply
	}
	reply.NotFound = r.Header.Get(wire.HeaderError) == wire.FileNotFound
	reply.Content, reply.Broken = io.ReadAll(r.Body)
	return reply
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"":                       "169.254.169.254:80",
		"169.254.169.254":        "169.254.169.254:80",
		"127.0.0.1:8080":         "127.0.0.1:8080",
		"host:8080":              "host:8080",
		"http://host:8080":       "host:8080",
		"http://host:8080/":      "host:8080",
		"[::1]:8080":             "[::1]:8080",
		"::1":                    "[::1]:80",
		"[fd00::1]":              "[fd00::1]:80",
		"unix:/run/host.sock":    "unix:/run/host.sock",
		"unix:///run/host.sock":  "unix:/run/host.sock",
		"[fe80::1%eth0]:80":      "[fe80::1%eth0]:80",
		"metadata.local.example": "metadata.local.example:80",
	} {
		client, err := hostclient.New(address, hostclient.Options{})
		if err != nil || client.Address() != want {
			t.Errorf("%q: %v, %v, want %q", address, client, err, want)
		}
	}
}

func TestAddressesThatCantBe(t *testing.T) {
	for _, address := range []string{
		"https://host", "ftp://host", "host:", "host:x", "host:0", "host:65536", ":80", "a b", "host/path",
		"user@host", "unix:", "unix:relative", "unix:/" + strings.Repeat("x", 200), "[::1", "1:2:3:4", "http://", "h\x00:80",
	} {
		_, err := hostclient.New(address, hostclient.Options{})
		if !errors.Is(err, hostclient.ErrInvalidAddress) || !strings.Contains(err.Error(), "it must be ADDRESS, HOST:PORT") {
			t.Errorf("%q: %v, want an error that says what is right", address, err)
		}
	}
}

// A host that isn't there is an error of the way, not a refusal, for every method.
func TestHostAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	client, err := hostclient.New(listener.Addr().String(), hostclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	log, err := client.OpenLog(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	n, err := log.Write([]byte("x"))
	if n != 0 || err == nil {
		t.Errorf("a write to a host that isn't there: %d, %v; want nothing written, so that it can be sent again", n, err)
	}
	if closed := log.Close(); closed == nil {
		t.Error("the log of a host that isn't there was closed without an error")
	}
	if _, err := client.Execute(context.Background()); err == nil {
		t.Error("execute without a host")
	} else if _, refused := errors.AsType[*domain.Error](err); refused {
		t.Errorf("no host at all is told as a refusal: %v", err)
	}
}
