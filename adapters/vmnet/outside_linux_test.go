package vmnet_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// insideVariable tells a test that it is in a network namespace of its own.
const insideVariable = "VMNET_TEST_NAMESPACE"

// inNamespace runs a test again, alone and in a network namespace of its own: nothing that it does to routes is
// left. It returns true there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		return true
	}
	again := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	again.Env = append(os.Environ(), insideVariable+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	said, err := again.CombinedOutput()
	if errors.Is(err, os.ErrPermission) && os.Getenv("CI") == "" {
		t.Skipf("no namespace to be had: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	return false
}

// The host of a namespace, and the world beyond its card.
var (
	hostAddress  = netip.MustParsePrefix("198.51.100.2/24")
	worldAddress = netip.MustParsePrefix("198.51.100.1/24")
)

// must ends a test that can't be set up.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func setAddress(h *netlink.Handle, name string, is netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	at := &net.IPNet{IP: is.Addr().AsSlice(), Mask: net.CIDRMask(is.Bits(), 32)}
	return errors.Join(h.AddrAdd(link, &netlink.Addr{IPNet: at}), h.LinkSetUp(link))
}

// worldBeyond makes the world: another namespace, at the other end of the host's card, with an echo at a port
// of TCP and of UDP.
func worldBeyond(t *testing.T, port uint16) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "card"}, PeerName: "beyond"}))
	beyond, err := netlink.LinkByName("beyond")
	must(t, err)
	thread, moved, ready := make(chan int), make(chan struct{}), make(chan error, 1)
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- err
			return
		}
		thread <- unix.Gettid()
		<-moved
		h, err := netlink.NewHandle()
		if err == nil {
			defer h.Close()
			err = setAddress(h, "beyond", worldAddress)
		}
		at := netip.AddrPortFrom(worldAddress.Addr(), port)
		stream, errStream := net.Listen("tcp4", at.String())
		packets, errPackets := net.ListenPacket("udp4", at.String())
		if err := errors.Join(err, errStream, errPackets); err != nil {
			ready <- err
			return
		}
		defer stream.Close()
		defer packets.Close()
		go echo(stream, "the world")
		go echoPackets(packets, same)
		ready <- nil
		<-done
	}()
	select {
	case id := <-thread:
		must(t, netlink.LinkSetNsPid(beyond, id))
		close(moved)
		must(t, <-ready)
	case err := <-ready:
		t.Fatal(err)
	}
}

// The host's own routes may lead an address to itself that no card has. Neither such a one nor any other name of
// the host gets a byte, a connection or a packet from a guest, and the world beyond does.
func TestOutsideIsNeverTheHost(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const port = 80
	worldBeyond(t, port)
	h, err := netlink.NewHandle()
	must(t, err)
	defer h.Close()
	must(t, setAddress(h, "card", hostAddress))
	lo, err := h.LinkByName("lo")
	must(t, err)
	must(t, h.LinkSetUp(lo))
	_, anycast, _ := net.ParseCIDR("10.9.0.0/16")
	_, named, _ := net.ParseCIDR("10.8.0.0/16")
	for _, route := range []*netlink.Route{
		{Dst: anycast},
		{Dst: named, Src: hostAddress.Addr().AsSlice()}, // whose two ends differ
	} {
		route.LinkIndex, route.Type, route.Table, route.Scope = lo.Attrs().Index, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netlink.SCOPE_HOST
		must(t, h.RouteAdd(route))
	}
	var came atomic.Int64
	stream, err := net.Listen("tcp", ":80")
	must(t, err)
	defer stream.Close()
	go func() {
		for {
			conn, err := stream.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			conn.Close()
		}
	}()
	packets, err := net.ListenPacket("udp", ":80")
	must(t, err)
	defer packets.Close()
	go echoPackets(packets, func(p []byte) []byte { came.Add(1); return p })

	for _, to := range []string{
		"10.9.1.1:80", "10.8.1.1:80", "198.51.100.2:80", "198.51.100.255:80", "127.0.0.1:80", "127.1.2.3:80", "0.0.0.0:80",
		"255.255.255.255:80", "224.0.0.1:80", "169.254.1.1:80", "[::1]:80", "[::]:80", "[::ffff:127.0.0.1]:80", "[::ffff:10.9.1.1]:80",
		"[64:ff9b::7f00:1]:80", "[64:ff9b::10.9.1.1]:80", "[fe80::1]:80",
	} {
		for _, network := range []string{"tcp", "udp"} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			conn, err := vmnet.DialOutside(ctx, network, to)
			switch {
			case err == nil:
				_, _ = conn.Write([]byte("knock"))
				conn.Close()
				t.Errorf("%s %s can be reached", network, to)
			case isTimeout(err):
				t.Errorf("%s %s was tried: %v", network, to, err)
			}
			cancel()
		}
	}
	// Rules for packets may lead to the host what its routes don't. There, a handshake doesn't come about, and
	// nothing of an answer comes back.
	deaf := net.Dialer{Control: vmnet.KeepOutside, Timeout: 300 * time.Millisecond}
	if conn, err := deaf.DialContext(t.Context(), "tcp4", "10.9.1.1:80"); !isTimeout(err) {
		t.Errorf("a handshake with the host: %v, %v", conn, err)
	}
	if n := came.Load(); n != 0 {
		t.Errorf("%d calls reached the host", n)
	}
	if answers(t, deaf.DialContext, "udp4", "10.9.1.1:80", time.Second) {
		t.Error("the host's answer came back")
	}
	if _, err := deaf.DialContext(t.Context(), "udp4", "198.51.100.255:80"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a broadcast: %v", err)
	}
	// All this would be nothing if the ways weren't there, or the world's weren't.
	for _, to := range []string{"10.9.1.1:80", "10.8.1.1:80", "198.51.100.2:80"} {
		before := came.Load()
		conn, err := net.Dial("tcp4", to)
		must(t, err)
		conn.Close()
		eventually(t, to+" doesn't lead to the host at all", func() bool { return came.Load() > before })
	}
	if !answers(t, new(net.Dialer).DialContext, "udp4", "10.9.1.1:80", patience) {
		t.Error("the host's answers wouldn't come back anyway")
	}
	if !answers(t, vmnet.DialOutside, "udp", "198.51.100.1:80", patience) || !answers(t, vmnet.DialOutside, "tcp", "198.51.100.1:80", patience) {
		t.Error("the world can't be reached")
	}
}

// answers tells whether anything comes back from an address within a time.
func answers(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), network, to string, within time.Duration) bool {
	t.Helper()
	conn, err := dial(t.Context(), network, to)
	if err != nil {
		t.Errorf("%s %s: %v", network, to, err)
		return false
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("knock"))
	conn.SetReadDeadline(time.Now().Add(within))
	_, err = conn.Read(make([]byte, 10))
	return err == nil
}
