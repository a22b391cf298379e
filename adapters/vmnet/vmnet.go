package vmnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// The addresses of every network. Networks of two guests have them both, and nothing else in common.
var (
	Guest      = netip.MustParsePrefix("169.254.169.2/24")
	Gateway    = netip.MustParseAddr("169.254.169.254") // and the metadata address
	GuestMAC   = net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}
	GatewayMAC = net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd}
)

// MTU is the most that a packet has. Few large frames cost an emulated machine far less than many small
// ones.
const MTU = 65520

// MetadataPort is where the metadata address is listened at.
const MetadataPort = 80

// nic is the number of the stack's one network card.
const nic tcpip.NICID = 1

// abortEvery is how often a network at its end looks for connections that were begun meanwhile.
const abortEvery = 20 * time.Millisecond

// Config is what a Network is made with. The zero Config makes an isolated one.
type Config struct {
	NAT *NAT // nil isolates the guest
	// Logger is told what the guest was refused, at Debug; nil is nobody.
	Logger *slog.Logger
}

// Network is one guest's network. Close ends it, and all goroutines that it has started.
type Network struct {
	wire     *wire
	stack    *stack.Stack
	listener *listener
	crew     crew
	done     chan struct{} // closed when the wire has ended
	once     sync.Once
}

// New begins a network. conn carries the frames of the guest's network card in QEMU's way, each after
// its length; it belongs to the network from now on, also after an error.
func New(conn net.Conn, config Config) (*Network, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	endpoint, err := tap.NewLinkEndpoint(false, MTU, GatewayMAC.String(), Gateway.String(), nil)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	n := &Network{wire: newWire(conn, endpoint), done: make(chan struct{})}
	n.crew.context, n.crew.cancel = context.WithCancel(context.Background())
	endpoint.Connect(n.wire)
	n.stack, err = newStack(endpoint)
	if err == nil {
		err = n.serve(config)
	}
	if err != nil {
		if n.stack != nil {
			n.end()
		}
		return nil, errors.Join(fmt.Errorf("the guest's network can't be made: %w", err), conn.Close())
	}
	n.crew.do(func() {
		defer close(n.done)
		n.wire.receive()
	})
	n.crew.do(n.wire.send)
	return n, nil
}

// serve opens what the guest may reach.
func (n *Network) serve(config Config) (err error) {
	if n.listener, err = listen(n.stack, MetadataPort, Connections); err != nil {
		return err
	}
	if err = n.serveDHCP(config.NAT != nil); err != nil {
		return err
	}
	if config.NAT != nil {
		return n.serveNAT(*config.NAT, config.Logger)
	}
	return nil
}

// Listener takes the guest's connections to the metadata address. It closes with the network.
func (n *Network) Listener() net.Listener { return n.listener }

// Done is closed when the guest's end of the network is gone, or Close was called.
func (n *Network) Done() <-chan struct{} { return n.done }

// Err tells why a network that nobody closed is done, if not for the guest's end being gone.
func (n *Network) Err() error { return n.wire.why() }

// Refused is how many of the guest's frames were not let in.
func (n *Network) Refused() int64 { return n.wire.refused.Load() }

// Close ends every connection, and returns when nothing is left of the network. Any number of times, from
// any goroutine.
func (n *Network) Close() error {
	n.once.Do(func() {
		n.wire.end(nil)
		n.listener.Close()
		n.end()
	})
	return nil
}

// end ends all that runs, and then the stack: its link endpoint forgets it, so the wire must not be using
// it any more.
func (n *Network) end() {
	ended := n.crew.end()
	again := time.NewTicker(abortEvery)
	defer again.Stop()
	for waiting := true; waiting; {
		for _, endpoint := range n.stack.RegisteredEndpoints() {
			endpoint.Abort()
		}
		select {
		case <-ended:
			waiting = false
		case <-again.C: // some goroutine has just made one more, whose handshake nobody will answer
		}
	}
	n.stack.Close()
	n.stack.Wait()
}

// closeAtEnd closes what the network has opened inside itself.
func (n *Network) closeAtEnd(c io.Closer) {
	context.AfterFunc(n.crew.context, func() { c.Close() })
}

// newStack makes a stack that answers at the gateway's address alone.
func newStack(endpoint stack.LinkEndpoint) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	for _, option := range tcpOptions() {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return s, fmt.Errorf("option %T: %s", option, err)
		}
	}
	if err := s.CreateNIC(nic, endpoint); err != nil {
		return s, errors.New(err.String())
	}
	address := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(Gateway), PrefixLen: Guest.Bits()},
	}
	if err := s.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
		return s, errors.New(err.String())
	}
	// The guest's card is known: nothing that it says about cards is asked for, or remembered.
	if err := s.AddStaticNeighbor(nic, ipv4.ProtocolNumber, guestAddr, guestMAC); err != nil {
		return s, errors.New(err.String())
	}
	s.SetRouteTable([]tcpip.Route{{Destination: address.AddressWithPrefix.Subnet(), NIC: nic}})
	return s, nil
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

// crew is the network's goroutines.
type crew struct {
	context context.Context // ends with the network
	cancel  context.CancelFunc

	mu     sync.Mutex // guards closed, and that nobody joins while it is waited for
	closed bool
	all    sync.WaitGroup
}

// enter lets a goroutine in that somebody else started; it calls all.Done at its end.
func (c *crew) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.all.Add(1)
	}
	return !c.closed
}

// do runs f on a goroutine of its own, unless the network is at its end.
func (c *crew) do(f func()) bool {
	if !c.enter() {
		return false
	}
	go func() {
		defer c.all.Done()
		f()
	}()
	return true
}

// end tells all of them to end; the channel is closed when they have.
func (c *crew) end() <-chan struct{} {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.all.Wait()
	}()
	return ended
}
