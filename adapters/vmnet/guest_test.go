package vmnet_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// patience bounds every wait; none should take as long.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketPair is a connection of two ends, as QEMU and the host have one.
func socketPair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	folder, err := os.MkdirTemp("", "vmnet-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	listener, err := net.Listen("unix", filepath.Join(folder, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	theirs, err = net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// network is a network, and the raw end of its guest.
func network(t *testing.T, config vmnet.Config) (*vmnet.Network, net.Conn) {
	t.Helper()
	ours, theirs := socketPair(t)
	n, err := vmnet.New(ours, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		// What the stack never gave back would shut a guest out by and by.
		eventually(t, "some of the guest's frames are never given back", func() bool { return n.Held() == 0 })
	})
	return n, theirs
}

// card is who a guest is on its network.
type card struct {
	mac     net.HardwareAddr
	address netip.Addr
}

var itself = card{mac: vmnet.GuestMAC, address: vmnet.Guest.Addr()}

// guest is a TCP/IP stack of its own, at the other end of a network's wire.
type guest struct {
	is     card
	conn   net.Conn
	stack  *stack.Stack
	ended  chan struct{}
	knocks uint16 // and the port of the last one

	mu     sync.Mutex
	frames func(frame []byte) // is shown what comes
	noted  map[string]bool    // of handshakes
}

func newGuest(t *testing.T, conn net.Conn, is card) *guest {
	t.Helper()
	link, err := tap.NewLinkEndpoint(false, vmnet.MTU, is.mac.String(), is.address.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{is: is, conn: conn, ended: make(chan struct{}), noted: make(map[string]bool)}
	link.Connect(g)
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := g.stack.CreateNIC(1, link); err != nil {
		t.Fatal(err)
	}
	if err := g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
		Address: tcpip.AddrFrom4(is.address.As4()), PrefixLen: 24,
	}}, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	_, everywhere, _ := net.ParseCIDR("0.0.0.0/0")
	subnet, _ := tcpip.NewSubnet(tcpip.AddrFromSlice(everywhere.IP.To4()), tcpip.MaskFromBytes(everywhere.Mask))
	gateway := tcpip.AddrFrom4(vmnet.Gateway.As4())
	_, local, _ := net.ParseCIDR("169.254.169.0/24")
	near, _ := tcpip.NewSubnet(tcpip.AddrFromSlice(local.IP.To4()), tcpip.MaskFromBytes(local.Mask))
	g.stack.SetRouteTable([]tcpip.Route{{Destination: near, NIC: 1}, {Destination: subnet, Gateway: gateway, NIC: 1}})
	go g.receive(link)
	t.Cleanup(g.close)
	return g
}

func (g *guest) close() {
	g.conn.Close()
	<-g.ended
	g.stack.Destroy()
}

// DeliverNetworkPacket sends a frame.
func (g *guest) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, packet *stack.PacketBuffer) {
	g.send(packet.ToView().AsSlice())
}

func (g *guest) send(frame []byte) {
	if _, to, flags, ok := segmentOf(frame); ok && flags == header.TCPFlagSyn {
		g.note("asked " + to.String())
	}
	_, _ = g.conn.Write(framed(frame))
}

// segmentOf is what a frame says of a connection, if it does.
func segmentOf(frame []byte) (from, to netip.AddrPort, flags header.TCPFlags, ok bool) {
	if len(frame) < header.EthernetMinimumSize+header.IPv4MinimumSize+header.TCPMinimumSize || header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return from, to, flags, false
	}
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if ip.TransportProtocol() != header.TCPProtocolNumber {
		return from, to, flags, false
	}
	segment := header.TCP(ip.Payload())
	from = netip.AddrPortFrom(netip.AddrFrom4(ip.SourceAddress().As4()), segment.SourcePort())
	to = netip.AddrPortFrom(netip.AddrFrom4(ip.DestinationAddress().As4()), segment.DestinationPort())
	return from, to, segment.Flags(), true
}

// note keeps in mind that something was sent, or came.
func (g *guest) note(what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noted[what] = true
}

func (g *guest) hasNoted(what string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.noted[what]
}

// knock asks for a connection as no guest's own stack would, which keeps some addresses to itself. It returns what
// is noted if there is an answer.
func (g *guest) knock(to string) (answer string) {
	g.knocks++
	where, from := netip.MustParseAddrPort(to), netip.AddrPortFrom(vmnet.Guest.Addr(), g.knocks)
	g.send(segment(where.Addr(), header.TCPFields{SrcPort: from.Port(), DstPort: where.Port(), SeqNum: 1, Flags: synFlags}, ""))
	return where.String() + " answers " + from.String()
}

func framed(frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
}

// watch shows all frames that come.
func (g *guest) watch(show func([]byte)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frames = show
}

func (g *guest) receive(link *tap.LinkEndpoint) {
	defer close(g.ended)
	reader := bufio.NewReader(g.conn)
	for {
		frame, err := readFrame(reader)
		if err != nil {
			return
		}
		g.mu.Lock()
		show := g.frames
		g.mu.Unlock()
		if show != nil {
			show(frame)
		}
		if from, to, flags, ok := segmentOf(frame); ok && flags == header.TCPFlagSyn|header.TCPFlagAck {
			g.note(from.String() + " answers " + to.String())
		}
		data := buffer.MakeWithData(frame)
		data.TrimFront(header.EthernetMinimumSize)
		packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: data})
		link.DeliverNetworkPacket(header.Ethernet(frame).Type(), packet)
		packet.DecRef()
	}
}

func readFrame(reader io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(reader, length[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	_, err := io.ReadFull(reader, frame)
	return frame, err
}

// dial opens a TCP connection from inside.
func (g *guest) dial(to string, within time.Duration) (net.Conn, error) {
	where := netip.MustParseAddrPort(to)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(where.Addr().As4()), Port: where.Port()}, ipv4.ProtocolNumber)
}

// mustDial opens one that must come about.
func (g *guest) mustDial(t *testing.T, to string) net.Conn {
	t.Helper()
	conn, err := g.dial(to, patience)
	if err != nil {
		t.Fatalf("%s can't be reached: %v", to, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// dialUDP opens a flow from inside.
func (g *guest) dialUDP(t *testing.T, to string) *gonet.UDPConn {
	t.Helper()
	where := netip.MustParseAddrPort(to)
	conn, err := gonet.DialUDP(g.stack, nil, &tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(where.Addr().As4()), Port: where.Port()}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echo answers each connection with what it brings, after a greeting that names who is there.
func echo(listener net.Listener, name string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.WriteString(conn, name+"\n")
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// greeting is the first line that comes.
func greeting(t *testing.T, conn net.Conn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("no greeting: %v", err)
	}
	return line[:len(line)-1]
}

// eventually polls until ok, or fails.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for over := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(over) {
			t.Fatal(what)
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
