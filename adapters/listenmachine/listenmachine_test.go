package listenmachine_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/listenmachine"
	"github.com/hexworker/metaservice/ports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err := server.Serve(listener)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

// boot boots a machine at an address, and tells where it listens.
func boot(t *testing.T, address string) (ports.Guest, string) {
	t.Helper()
	var bound string
	machine, err := listenmachine.New(listenmachine.Config{
		Address: address, Serve: serve, Listening: func(address string) { bound = address },
	})
	if err != nil {
		t.Fatal(err)
	}
	guest, err := machine.Boot(t.Context(), ports.BootOptions{Handler: hello})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, guest) })
	return guest, bound
}

func stop(t *testing.T, guest ports.Guest) {
	t.Helper()
	if err := guest.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	select {
	case <-guest.Done():
	default:
		t.Error("it is stopped, and not done")
	}
	if err := guest.Err(); err != nil {
		t.Errorf("it was stopped, and its error is %v", err)
	}
}

// ask is what a guest gets, dialing as hostclient would.
func ask(address string) (string, error) {
	network, where := "tcp", address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, where = "unix", path
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, where)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	response, err := client.Get("http://host/")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestServesUntilStop(t *testing.T) {
	for name, address := range map[string]string{
		"a port that is free":  "127.0.0.1:0",
		"a port of any source": ":0",
		"a socket":             "unix:" + filepath.Join(t.TempDir(), "host.sock"),
		"a socket by its URL":  "unix://" + filepath.Join(t.TempDir(), "host.sock"),
	} {
		t.Run(name, func(t *testing.T) {
			guest, bound := boot(t, address)
			if got, err := ask(bound); got != "hello" {
				t.Errorf("it answers %q, %v", got, err)
			}
			select {
			case <-guest.Done():
				t.Error("it is done, and nobody stopped it")
			default:
			}
			stop(t, guest)
			if got, err := ask(bound); err == nil {
				t.Errorf("it answers %q after it was stopped", got)
			}
			stop(t, guest)
		})
	}
}

func TestSocketIsItsOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.sock")
	guest, bound := boot(t, "unix:"+path)
	if bound != "unix:"+path {
		t.Errorf("it says that it listens at %q", bound)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	stop(t, guest)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// A host that was killed leaves its socket's file, and the next one must not stumble over it.
func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	_, bound := boot(t, "unix:"+path)
	if got, err := ask(bound); got != "hello" {
		t.Errorf("it answers %q, %v", got, err)
	}
}

func TestNothingElseIsReplaced(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	used := filepath.Join(folder, "used.sock")
	boot(t, "unix:"+used)
	_, port := boot(t, "127.0.0.1:0")
	for name, test := range map[string]struct{ address, says string }{
		"a file":               {"unix:" + file, "is no socket"},
		"a socket in use":      {"unix:" + used, "is in use"},
		"a folder that's not":  {"unix:" + filepath.Join(folder, "no", "x.sock"), "its folder must be there"},
		"a port in use":        {port, "a port that is free"},
		"somebody's else host": {"192.0.2.1:0", "an address of this machine"},
	} {
		t.Run(name, func(t *testing.T) {
			machine, err := listenmachine.New(listenmachine.Config{Address: test.address, Serve: serve})
			if err != nil {
				t.Fatal(err)
			}
			_, err = machine.Boot(t.Context(), ports.BootOptions{Handler: hello})
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("the error %v does not say %q", err, test.says)
			}
		})
	}
	if text, _ := os.ReadFile(file); string(text) != "precious" {
		t.Errorf("the file holds %q", text)
	}
	if got, err := ask("unix:" + used); got != "hello" {
		t.Errorf("who had the socket answers %q, %v", got, err)
	}
}

func TestAddressesThatCannotBe(t *testing.T) {
	for _, address := range []string{"", "8080", "localhost", "a:b", ":65536", "::1", "unix:", "unix:x.sock", "unix:@x", "unix:/" + strings.Repeat("x", 200)} {
		_, err := listenmachine.New(listenmachine.Config{Address: address, Serve: serve})
		if !errors.Is(err, listenmachine.ErrInvalidAddress) || !strings.Contains(err.Error(), "it must be HOST:PORT") {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := listenmachine.New(listenmachine.Config{Address: ":0"}); err == nil {
		t.Error("without Serve there is no error")
	}
}

func TestServerThatFailsEndsTheGuest(t *testing.T) {
	for name, failure := range map[string]error{"with an error": errors.New("no more sockets"), "without one": nil} {
		t.Run(name, func(t *testing.T) {
			machine, err := listenmachine.New(listenmachine.Config{Address: "127.0.0.1:0",
				Serve: func(context.Context, net.Listener, http.Handler) error { return failure }})
			if err != nil {
				t.Fatal(err)
			}
			guest, err := machine.Boot(t.Context(), ports.BootOptions{Handler: hello})
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-guest.Done():
			case <-time.After(5 * time.Second):
				t.Fatal("it is not done")
			}
			if err := guest.Err(); err == nil || failure != nil && !errors.Is(err, failure) {
				t.Errorf("its error is %v", err)
			}
			stop(t, guest)
		})
	}
}
