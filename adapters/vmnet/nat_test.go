package vmnet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// world is what a guest with NAT reaches: services of this test, at addresses that are nobody's.
type world struct {
	places map[string]string // network and address to an address here
	dialed atomic.Int64
}

// nowhere is an address of the world's that doesn't answer.
const nowhere = "198.51.100.1:9"

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.dialed.Add(1)
	if address == nowhere {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	place, ok := w.places[network+" "+address]
	if !ok {
		return nil, errors.New("nobody is there")
	}
	return new(net.Dialer).DialContext(ctx, network, place)
}

func (w *world) nat() *vmnet.NAT {
	return &vmnet.NAT{
		Dial:      w.dial,
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("192.0.2.54:53")},
		Own:       func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("203.0.113.7")}, nil },
	}
}

// tcpEcho is a service of the world's.
func tcpEcho(t *testing.T, name string) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go echo(listener, name)
	return listener.Addr().String()
}

// udpEcho answers packets with what change makes of them, nil with nothing.
func udpEcho(t *testing.T, change func([]byte) []byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go echoPackets(conn, change)
	return conn.LocalAddr().String()
}

func echoPackets(conn net.PacketConn, change func([]byte) []byte) {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		if answer := change(buffer[:n]); answer != nil {
			_, _ = conn.WriteTo(answer, from)
		}
	}
}

func same(p []byte) []byte { return p }

func TestNATReachesTheWorld(t *testing.T) {
	w := &world{places: map[string]string{
		"tcp 192.0.2.1:80": tcpEcho(t, "the world"),
		"udp 192.0.2.1:99": udpEcho(t, same),
	}}
	n, conn := network(t, vmnet.Config{NAT: w.nat()})
	go echo(n.Listener(), "metadata")
	g := newGuest(t, conn, itself)
	c := g.mustDial(t, "192.0.2.1:80")
	// One direction ends, and the other one goes on.
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		_, _ = c.Write(want)
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	c.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append([]byte("the world\n"), want...)) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	flow := g.dialUDP(t, "192.0.2.1:99")
	for _, packet := range []string{"one", "", "three", strings.Repeat("long", 10_000)} {
		if _, err := flow.Write([]byte(packet)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 64<<10)
		flow.SetReadDeadline(time.Now().Add(patience))
		size, err := flow.Read(buffer)
		if err != nil || string(buffer[:size]) != packet {
			t.Errorf("%d bytes came back of %d, %v", size, len(packet), err)
		}
	}
	refused(t, g, "192.0.2.2:80")
	if got := greeting(t, g.mustDial(t, metadata)); got != "metadata" {
		t.Errorf("greeted by %q", got)
	}
}

// A connection that breaks at one end is broken at the other, and looks nothing like one that has ended: what
// came before may not be all.
func TestNATPassesOnThatAConnectionBroke(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	w := &world{places: map[string]string{"tcp 192.0.2.1:80": listener.Addr().String()}}
	_, conn := network(t, vmnet.Config{NAT: w.nat()})
	g := newGuest(t, conn, itself)
	inside := g.mustDial(t, "192.0.2.1:80")
	outside, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	if _, err := outside.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	inside.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(inside, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	outside.(*net.TCPConn).SetLinger(0)
	outside.Close()
	if more, err := io.ReadAll(inside); err == nil || isTimeout(err) {
		t.Errorf("the world broke off, and the guest read %d bytes more and %v", len(more), err)
	}
}

// A flow that the world refuses ends, so that the guest's next packet begins another one: else it would hear
// nothing from who comes later.
func TestNATFlowsEndWhenRefused(t *testing.T) {
	nobody, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{places: map[string]string{"udp 192.0.2.1:99": nobody.LocalAddr().String()}}
	nobody.Close()
	_, conn := network(t, vmnet.Config{NAT: w.nat()})
	flow := newGuest(t, conn, itself).dialUDP(t, "192.0.2.1:99")
	eventually(t, "no second flow", func() bool {
		if _, err := flow.Write([]byte("is anybody there?")); err != nil {
			t.Fatal(err)
		}
		return w.dialed.Load() > 1
	})
}

// The host itself isn't part of the world.
func TestNATNeverReachesTheHost(t *testing.T) {
	w := &world{}
	_, conn := network(t, vmnet.Config{NAT: w.nat()})
	g := newGuest(t, conn, itself)
	for _, to := range []string{
		"127.0.0.1:80", "127.255.255.254:80", "0.0.0.0:80", "0.1.2.3:80", "169.254.0.1:80", "169.254.169.1:80", "169.254.169.254:81",
		"169.254.255.255:80", "224.0.0.1:80", "239.255.255.250:1900", "240.0.0.1:80", "255.255.255.255:80", "203.0.113.7:80",
	} {
		refused(t, g, to)
		if at := netip.MustParseAddrPort(to); at.Addr().IsMulticast() || at.Addr() == netip.MustParseAddr("255.255.255.255") {
			continue // its own stack sends no UDP there without being told to
		}
		flow := g.dialUDP(t, to)
		_, _ = flow.Write([]byte("knock"))
	}
	// What was sent before has been looked at when this is.
	w2 := g.dialUDP(t, "192.0.2.1:1")
	_, _ = w2.Write([]byte("knock"))
	eventually(t, "the last packet was not forwarded", func() bool { return w.dialed.Load() > 0 })
	if n := w.dialed.Load(); n != 1 {
		t.Errorf("the host dialed %d times for a guest", n)
	}
}

func TestForbidden(t *testing.T) {
	for address, want := range map[string]bool{
		"::1": true, "::": true, "fe80::1": true, "::ffff:127.0.0.1": true, "::ffff:10.0.0.1": true, "64:ff9b::7f00:1": true, "2001:db8::1": true,
		"0.0.0.0": true, "0.255.255.255": true, "1.0.0.0": false, "126.255.255.255": false, "127.0.0.0": true, "127.255.255.255": true,
		"128.0.0.0": false, "169.253.255.255": false, "169.254.0.0": true, "169.254.255.255": true, "169.255.0.0": false,
		"168.63.129.16": true, "168.63.129.15": false, "100.100.100.200": true, "100.100.100.201": false,
		"223.255.255.255": false, "224.0.0.0": true, "255.255.255.255": true, "10.0.0.1": false, "192.168.0.1": false,
	} {
		if got := vmnet.Forbidden(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

// The addresses of this host's own cards are refused, too, which only the real ones show.
func TestNATKnowsTheHostsCards(t *testing.T) {
	w := &world{}
	nat := w.nat()
	nat.Own = nil
	_, conn := network(t, vmnet.Config{NAT: nat})
	g := newGuest(t, conn, itself)
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if prefix := netip.MustParsePrefix(a.String()); prefix.Addr().Is4() {
			refused(t, g, netip.AddrPortFrom(prefix.Addr(), 80).String())
		}
	}
	if n := w.dialed.Load(); n != 0 {
		t.Errorf("the host dialed itself %d times", n)
	}
	// Where they can't be told, there is no way out.
	nat.Own = func() ([]netip.Addr, error) { return nil, errors.New("none today") }
	_, conn = network(t, vmnet.Config{NAT: nat})
	refused(t, newGuest(t, conn, itself), "192.0.2.1:80")
	if n := w.dialed.Load(); n != 0 {
		t.Errorf("the host dialed %d times without knowing itself", n)
	}
}

// A guest may open flows as fast as it sends packets: the host's cards are not listed for each, and whoever lists
// them holds up nobody else.
func TestTheHostsCardsAreListedSeldom(t *testing.T) {
	w := &world{places: map[string]string{"tcp 192.0.2.1:80": tcpEcho(t, "the world"), "udp 192.0.2.1:99": udpEcho(t, same)}}
	nat := w.nat()
	var listed atomic.Int64
	begun, goOn := make(chan struct{}, 1000), make(chan struct{})
	nat.Own = func() ([]netip.Addr, error) {
		listed.Add(1)
		begun <- struct{}{}
		<-goOn
		return []netip.Addr{netip.MustParseAddr("::ffff:203.0.113.7")}, nil
	}
	n, conn := network(t, vmnet.Config{NAT: nat})
	t.Cleanup(sync.OnceFunc(func() { close(goOn) })) // before the network closes, which waits for it
	go echo(n.Listener(), "metadata")
	g := newGuest(t, conn, itself)
	flow := g.dialUDP(t, "192.0.2.1:99")
	_, _ = flow.Write([]byte("x"))
	<-begun
	works(t, g) // meanwhile
	if w.dialed.Load() != 0 {
		t.Error("the world was dialed before the host knew itself")
	}
	goOn <- struct{}{}
	first := time.Now()
	flow.SetReadDeadline(time.Now().Add(patience))
	if _, err := flow.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	const flows = 100
	for range flows {
		flow := g.dialUDP(t, "192.0.2.1:99")
		_, _ = flow.Write([]byte("x"))
	}
	eventually(t, "not all flows go out", func() bool {
		select {
		case <-begun: // a second time, after a second
			goOn <- struct{}{}
		default:
		}
		return w.dialed.Load() == flows+1
	})
	if most := 1 + int64(time.Since(first)/vmnet.OwnAge) + 1; listed.Load() > most {
		t.Errorf("the host's cards were listed %d times for %d flows", listed.Load(), flows)
	}
}

func TestNATLimitsAreTheConfigs(t *testing.T) {
	t.Parallel() // it waits
	w := &world{places: map[string]string{"tcp 192.0.2.1:80": tcpEcho(t, "the world"), "udp 192.0.2.1:99": udpEcho(t, same)}}
	nat := w.nat()
	nat.Forwards, nat.Flows, nat.Idle, nat.FlowIdle = 1, 1, 5*time.Second, 5*time.Second
	_, conn := network(t, vmnet.Config{NAT: nat})
	g := newGuest(t, conn, itself)
	one := g.mustDial(t, "192.0.2.1:80")
	flow, more := g.dialUDP(t, "192.0.2.1:99"), g.dialUDP(t, "192.0.2.1:99")
	_, _ = flow.Write([]byte("x"))
	flow.SetReadDeadline(time.Now().Add(patience))
	if _, err := flow.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_, _ = more.Write([]byte("x"))
	refused(t, g, "192.0.2.1:80")
	if n := w.dialed.Load(); n != 2 {
		t.Errorf("the world was dialed %d times", n)
	}
	// Nothing comes on either any more: the host ends them, and there is room again.
	one.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(one); isTimeout(err) {
		t.Error("the connection stays")
	}
	eventually(t, "there is no room again", func() bool {
		c, err := g.dial("192.0.2.1:80", patience)
		if err == nil {
			c.Close()
		}
		_, _ = more.Write([]byte("x"))
		more.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, errFlow := more.Read(make([]byte, 1))
		return err == nil && errFlow == nil
	})
}

func TestNATLimitsCannotBeNegative(t *testing.T) {
	for _, nat := range []vmnet.NAT{{Forwards: -1}, {Flows: -1}, {Idle: -1}, {FlowIdle: -1}} {
		ours, _ := socketPair(t)
		if n, err := vmnet.New(ours, vmnet.Config{NAT: &nat}); err == nil || !strings.Contains(err.Error(), "negative") {
			t.Errorf("%+v: %v, %v", nat, n, err)
		}
	}
}

func TestNATFlowsAtOnce(t *testing.T) {
	w := &world{places: map[string]string{"udp 192.0.2.1:99": udpEcho(t, same)}}
	_, conn := network(t, vmnet.Config{NAT: w.nat()})
	g := newGuest(t, conn, itself)
	buffer := make([]byte, 16)
	for range vmnet.DefaultFlows {
		flow := g.dialUDP(t, "192.0.2.1:99")
		_, _ = flow.Write([]byte("x"))
		flow.SetReadDeadline(time.Now().Add(patience))
		if _, err := flow.Read(buffer); err != nil {
			t.Fatal(err)
		}
	}
	before := w.dialed.Load()
	flow := g.dialUDP(t, "192.0.2.1:99")
	_, _ = flow.Write([]byte("x"))
	flow.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := flow.Read(buffer); !isTimeout(err) {
		t.Errorf("one more flow: %v", err)
	}
	if w.dialed.Load() != before {
		t.Error("one more flow was dialed")
	}
}

func TestNATForwardsAtOnce(t *testing.T) {
	w := &world{places: map[string]string{"tcp 192.0.2.1:80": tcpEcho(t, "the world")}}
	_, conn := network(t, vmnet.Config{NAT: w.nat()})
	g := newGuest(t, conn, itself)
	var one net.Conn
	for range vmnet.DefaultForwards {
		one = g.mustDial(t, "192.0.2.1:80")
		if got := greeting(t, one); got != "the world" {
			t.Fatalf("greeted by %q", got)
		}
	}
	refused(t, g, "192.0.2.1:80")
	one.Close()
	eventually(t, "there is no room again", func() bool {
		c, err := g.dial("192.0.2.1:80", patience)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// A network ends at once, whatever it is waiting for.
func TestNATEndsAmidEverything(t *testing.T) {
	w := &world{places: map[string]string{"tcp 192.0.2.1:80": tcpEcho(t, "the world"), "udp 192.0.2.1:99": udpEcho(t, same)}}
	n, conn := network(t, vmnet.Config{NAT: w.nat()})
	g := newGuest(t, conn, itself)
	greeting(t, g.mustDial(t, "192.0.2.1:80"))
	_, _ = g.dialUDP(t, "192.0.2.1:99").Write([]byte("x"))
	dialing := make(chan error, 1)
	go func() {
		_, err := g.dial(nowhere, patience)
		dialing <- err
	}()
	eventually(t, "it does not dial", func() bool { return w.dialed.Load() == 3 })
	begun := time.Now()
	n.Close()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	conn.Close()
	g.close()
	if err := <-dialing; err == nil {
		t.Error("there was a connection to nowhere")
	}
}

// dnsMessage is a message with a header's second word, a question's type, and counts of what follows it.
func dnsMessage(id, flags, kind uint16, counts ...uint16) []byte {
	m := binary.BigEndian.AppendUint16(nil, id)
	m = binary.BigEndian.AppendUint16(m, flags)
	m = binary.BigEndian.AppendUint16(m, 1)
	for i := range 3 {
		var n uint16
		if i < len(counts) {
			n = counts[i]
		}
		m = binary.BigEndian.AppendUint16(m, n)
	}
	m = append(m, "\x07example\x03org\x00"...)
	m = binary.BigEndian.AppendUint16(m, kind)
	return binary.BigEndian.AppendUint16(m, 1)
}

const recursion = 0x0100 // is desired: an ordinary question's flags

// answered is a resolver's answer.
func answered(p []byte) []byte {
	a := bytes.Clone(p)
	a[2] |= 0x80
	return append(a, "answered"...)
}

// withLength is a message behind its length.
func withLength(p []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)
}

// longResolver answers one question on each connection.
func longResolver(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buffer := make([]byte, 4096)
			if n, _ := io.ReadAtLeast(conn, buffer, 14); n > 2 {
				_, _ = conn.Write(withLength(answered(buffer[2:n])))
			}
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

func TestDNS(t *testing.T) {
	question := dnsMessage(0x1234, recursion, 1)
	w := &world{places: map[string]string{
		// The first resolver answers another question, and is left for the second one only when it has
		// nothing more to say.
		"udp 192.0.2.53:53": udpEcho(t, func(p []byte) []byte { a := answered(p); a[0]++; return a }),
		"udp 192.0.2.54:53": udpEcho(t, answered),
		"tcp 192.0.2.54:53": longResolver(t),
	}}
	_, conn := network(t, vmnet.Config{NAT: w.nat()})
	g := newGuest(t, conn, itself)
	flow := g.dialUDP(t, "169.254.169.254:53")
	_, _ = flow.Write([]byte("short"))
	_, _ = flow.Write(question)
	buffer := make([]byte, 4096)
	flow.SetReadDeadline(time.Now().Add(patience))
	size, err := flow.Read(buffer)
	if err != nil || !bytes.Equal(buffer[:size], answered(question)) {
		t.Errorf("the answer is %q, %v", buffer[:size], err)
	}
	long := g.mustDial(t, "169.254.169.254:53")
	defer long.Close()
	long.SetDeadline(time.Now().Add(patience))
	for range 2 {
		_, _ = long.Write(withLength(question))
		want := withLength(answered(question))
		if _, err := io.ReadFull(long, buffer[:len(want)]); err != nil || !bytes.Equal(buffer[:len(want)], want) {
			t.Errorf("a long question is answered by %q, %v", buffer[:len(want)], err)
		}
	}
}

// The host's resolver, often on its loopback, gets questions from a guest, and nothing else.
func TestOnlyQuestionsReachTheResolver(t *testing.T) {
	w := &world{places: map[string]string{
		"udp 192.0.2.53:53": udpEcho(t, answered), "tcp 192.0.2.53:53": longResolver(t),
	}}
	_, conn := network(t, vmnet.Config{NAT: w.nat()})
	g := newGuest(t, conn, itself)
	flow := g.dialUDP(t, "169.254.169.254:53")
	const update, notify, response = 5 << 11, 4 << 11, 0x8000
	for name, message := range map[string][]byte{
		"a transfer":              dnsMessage(1, 0, 252),
		"an incremental one":      dnsMessage(1, 0, 251),
		"the resolver's own name": append(dnsMessage(1, recursion, 16)[:27], 0, 3), // class CHAOS
		"an update":               dnsMessage(1, update, 6),
		"a notification":          dnsMessage(1, notify, 6),
		"an answer":               dnsMessage(1, response, 1),
		"a count that is a lie":   dnsMessage(1, recursion, 1, 1),
		"two questions":           append(dnsMessage(1, recursion, 1)[:4], append([]byte{0, 2}, dnsMessage(1, recursion, 1)[6:]...)...),
		"what is no message":      bytes.Repeat([]byte("x"), 100),
		"a header":                dnsMessage(1, recursion, 1)[:12],
		"an empty one":            {},
		"what is longer than any": dnsMessage(1, recursion, 1)[:13],
	} {
		_, _ = flow.Write(message)
		long := g.mustDial(t, "169.254.169.254:53")
		long.SetDeadline(time.Now().Add(patience))
		_, _ = long.Write(withLength(message))
		if n, err := long.Read(make([]byte, 100)); err != io.EOF {
			t.Errorf("%s got %d bytes, %v", name, n, err)
		}
		long.Close()
	}
	// Behind all of them, a question is the first thing that the resolver hears.
	_, _ = flow.Write(dnsMessage(7, recursion, 1))
	flow.SetReadDeadline(time.Now().Add(patience))
	if _, err := flow.Read(make([]byte, 4096)); err != nil {
		t.Error(err)
	}
	if n := w.dialed.Load(); n != 1 {
		t.Errorf("the resolver was dialed %d times", n)
	}
}

// More questions than may wait are lost, and answered when they come again.
func TestDNSQuestionsAtOnce(t *testing.T) {
	var answers atomic.Bool
	resolver := udpEcho(t, func(p []byte) []byte {
		if !answers.Load() {
			return nil
		}
		return p
	})
	w := &world{places: map[string]string{"udp 192.0.2.53:53": resolver}}
	_, conn := network(t, vmnet.Config{NAT: w.nat()})
	g := newGuest(t, conn, itself)
	question := dnsMessage(0, recursion, 1)
	flow := g.dialUDP(t, "169.254.169.254:53")
	for i := range 2 * vmnet.Questions {
		binary.BigEndian.PutUint16(question, uint16(i))
		_, _ = flow.Write(question)
	}
	eventually(t, "the resolver wasn't asked", func() bool { return w.dialed.Load() >= vmnet.Questions })
	if n := w.dialed.Load(); n != vmnet.Questions {
		t.Errorf("%d questions are asked at once", n)
	}
	answers.Store(true)
	eventually(t, "nothing is answered afterwards", func() bool {
		_, _ = flow.Write(question)
		flow.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := flow.Read(make([]byte, 100))
		return err == nil
	})
}
