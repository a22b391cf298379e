package vmnet_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

const metadata = "169.254.169.254:80"

func TestGuestReachesTheMetadataAddress(t *testing.T) {
	n, conn := network(t, vmnet.Config{})
	g := newGuest(t, conn, itself)
	payload := make([]byte, 8<<20)
	rand.Read(payload)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host, _, _ := net.SplitHostPort(r.RemoteAddr); host != vmnet.Guest.Addr().String() {
			t.Errorf("the call comes from %s", r.RemoteAddr)
		}
		got, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes came, %v", len(got), err)
		}
		_, _ = w.Write(got)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(n.Listener()) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return g.dial(metadata, patience)
	}}}
	response, err := client.Post("http://"+metadata+"/", "", bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the server ended with %v", err)
	}
	server.Close()
}

// refused sees that nothing answers at an address, and that it was asked.
func refused(t *testing.T, g *guest, to string) {
	t.Helper()
	answer := ""
	if g.is.address == itself.address && g.is.mac.String() == itself.mac.String() {
		answer = g.knock(to)
	}
	if conn, err := g.dial(to, 300*time.Millisecond); err == nil {
		conn.Close()
		t.Errorf("%s can be reached", to)
	}
	if !g.hasNoted("asked " + to) {
		t.Errorf("%s was never asked", to)
	}
	if g.hasNoted(answer) {
		t.Errorf("%s answers a knock", to)
	}
}

func TestIsolatedGuestReachesNothingElse(t *testing.T) {
	outside, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	outside.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	n, conn := network(t, vmnet.Config{})
	go echo(n.Listener(), "metadata")
	g := newGuest(t, conn, itself)
	port := outside.Addr().(*net.TCPAddr).AddrPort().Port()
	for _, to := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.169.254", "169.254.169.1", "169.254.1.1", "192.0.2.1", "10.0.0.1",
	} {
		refused(t, g, netip.AddrPortFrom(netip.MustParseAddr(to), port).String())
	}
	refused(t, g, "169.254.169.254:53")
	refused(t, g, "192.0.2.1:80")
	works(t, g)
	answer := g.knock(metadata)
	eventually(t, "a knock can't be answered", func() bool { return g.hasNoted(answer) })
	// Whoever the guest sent here would be first.
	own, err := net.Dial("tcp4", outside.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	came, err := outside.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer came.Close()
	if came.RemoteAddr().String() != own.LocalAddr().String() {
		t.Errorf("the guest has reached this host: %s came before %s", came.RemoteAddr(), own.LocalAddr())
	}
}

// Two guests have the same addresses, and meet nowhere.
func TestGuestsDoNotMeet(t *testing.T) {
	var guests [2]*guest
	for i, name := range []string{"first", "second"} {
		n, conn := network(t, vmnet.Config{})
		go echo(n.Listener(), name)
		guests[i] = newGuest(t, conn, itself)
	}
	for i, want := range []string{"first", "second", "first"} {
		if got := greeting(t, guests[i%2].mustDial(t, metadata)); got != want {
			t.Errorf("guest %d reaches the %s guest's service", i, got)
		}
	}
}

// Whoever the guest routes for has an address, a card or a hop of its own.
func TestPeersBehindTheGuest(t *testing.T) {
	for name, is := range map[string]card{
		"another address": {mac: vmnet.GuestMAC, address: netip.MustParseAddr("169.254.169.3")},
		"a private one":   {mac: vmnet.GuestMAC, address: netip.MustParseAddr("172.17.0.2")},
		"the gateway's":   {mac: vmnet.GuestMAC, address: vmnet.Gateway},
		"another card":    {mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, address: vmnet.Guest.Addr()},
	} {
		t.Run(name, func(t *testing.T) {
			n, conn := network(t, vmnet.Config{})
			go echo(n.Listener(), "metadata")
			g := newGuest(t, conn, is)
			// Nobody tells it the gateway's card.
			if err := g.stack.AddStaticNeighbor(1, header.IPv4ProtocolNumber, tcpip.AddrFrom4(vmnet.Gateway.As4()), tcpip.LinkAddress(vmnet.GatewayMAC)); err != nil {
				t.Fatal(err)
			}
			if is.address != vmnet.Gateway { // which would be itself
				refused(t, g, metadata)
			} else {
				_, _ = conn.Write(framed(ipFrame(vmnet.GuestMAC, vmnet.Gateway.As4(), 1)))
			}
			eventually(t, "nothing was refused", func() bool { return n.Refused() > 0 })
		})
	}
}

// A guest that rewrites addresses for those behind it has to pass answers on, and these can't be: every
// packet from the metadata address is at its last hop, from the handshake's first on.
func TestAnswersAreAtTheirLastHop(t *testing.T) {
	n, conn := network(t, vmnet.Config{})
	go echo(n.Listener(), "metadata")
	g := newGuest(t, conn, itself)
	type packet struct {
		hops  uint8
		flags header.TCPFlags
	}
	packets := make(chan packet, 1000)
	g.watch(func(frame []byte) {
		if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
			return
		}
		if ip := header.IPv4(frame[header.EthernetMinimumSize:]); ip.TransportProtocol() == header.TCPProtocolNumber {
			packets <- packet{ip.TTL(), header.TCP(ip.Payload()).Flags()}
		}
	})
	c := g.mustDial(t, metadata)
	if got := greeting(t, c); got != "metadata" {
		t.Fatalf("greeted by %q", got)
	}
	if _, err := c.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "fewer than four packets came", func() bool { return len(packets) >= 4 })
	g.watch(nil)
	for range len(packets) {
		if p := <-packets; p.hops != 1 {
			t.Errorf("a packet (%s) came with %d hops left", p.flags, p.hops)
		}
	}
}

func TestEndOfTheGuest(t *testing.T) {
	n, conn := network(t, vmnet.Config{})
	conn.Close()
	select {
	case <-n.Done():
	case <-time.After(patience):
		t.Fatal("the network goes on without its guest")
	}
	if err := n.Err(); err != nil {
		t.Errorf("a guest that is gone is the error %v", err)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	n, conn := network(t, vmnet.Config{})
	g := newGuest(t, conn, itself)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := n.Listener().Accept()
		if err == nil {
			accepted <- c
		}
	}()
	g.mustDial(t, metadata)
	host := <-accepted
	read := make(chan error, 1)
	go func() {
		_, err := host.Read(make([]byte, 1))
		read <- err
	}()
	for range 2 {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-read:
		if err == nil {
			t.Error("a byte came")
		}
	case <-time.After(patience):
		t.Fatal("a connection outlives its network")
	}
	host.Close()
	if _, err := n.Listener().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	select {
	case <-n.Done():
	default:
		t.Error("it isn't done")
	}
	if n.Err() != nil {
		t.Error(n.Err())
	}
}

func TestListenerTellsItsAddress(t *testing.T) {
	n, _ := network(t, vmnet.Config{})
	if got := n.Listener().Addr().String(); got != metadata || !strings.HasPrefix(n.Listener().Addr().Network(), "tcp") {
		t.Errorf("the address is %s", got)
	}
}
