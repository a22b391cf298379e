package listenmachine

import (
	"context"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/ports"
)

func TestHopsOfAnAddress(t *testing.T) {
	for address, test := range map[string]struct{ hops, want int }{
		"169.254.169.254:80":          {0, 1},
		"[fe80::1%lo]:80":             {0, 1},
		"[::ffff:169.254.169.254]:80": {0, 1},
		"169.254.169.254:81":          {64, 64},
		"127.0.0.1:80":                {0, 0},
		"[::1]:80":                    {2, 2},
		":80":                         {0, 0},
		"localhost:80":                {0, 0},
		"unix:/run/host.sock":         {0, 0},
	} {
		machine, err := New(Config{Address: address, Hops: test.hops, Serve: hold})
		if err != nil || machine.place.hops != test.want {
			t.Errorf("%s, %d: %+v, %v", address, test.hops, machine, err)
		}
	}
	for address, hops := range map[string]int{"127.0.0.1:80": -1, "127.0.0.1:81": 256, "unix:/run/host.sock": 1} {
		if _, err := New(Config{Address: address, Hops: hops, Serve: hold}); err == nil {
			t.Errorf("%s, %d: there is no error", address, hops)
		}
	}
}

// hold serves nobody, and leaves the listener to the test.
func hold(ctx context.Context, _ net.Listener, _ http.Handler) error {
	<-ctx.Done()
	return nil
}

// What is accepted has its hops from the listener, for both families of addresses where it has both.
func TestHopsOfConnections(t *testing.T) {
	options := map[string][2]int{
		"IPv4": {syscall.IPPROTO_IP, syscall.IP_TTL},
		"IPv6": {syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS},
	}
	for _, test := range []struct {
		address string
		hops    int
		of      []string
	}{
		{"127.0.0.1:0", 1, []string{"IPv4"}},
		{"[::1]:0", 3, []string{"IPv6"}},
		{":0", 7, []string{"IPv4", "IPv6"}},
	} {
		listeners := make(chan net.Listener, 1)
		machine, err := New(Config{Address: test.address, Hops: test.hops,
			Serve: func(ctx context.Context, listener net.Listener, handler http.Handler) error {
				listeners <- listener
				return hold(ctx, listener, handler)
			}})
		if err != nil {
			t.Fatal(err)
		}
		guest, err := machine.Boot(t.Context(), ports.BootOptions{})
		if err != nil {
			t.Fatal(err)
		}
		listener := <-listeners
		client, err := net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range test.of {
			option := options[family]
			for what, socket := range map[string]any{"listener": listener, "connection": server} {
				if got := optionOf(t, socket.(syscall.Conn), option); got != test.hops {
					t.Errorf("%s: the %s's packets of %s go %d hops", test.address, what, family, got)
				}
			}
		}
		client.Close()
		server.Close()
		if err := guest.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func optionOf(t *testing.T, socket syscall.Conn, option [2]int) (value int) {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		value, failed = syscall.GetsockoptInt(int(fd), option[0], option[1])
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return value
}
