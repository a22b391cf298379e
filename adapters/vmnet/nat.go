package vmnet

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Limits of what is forwarded for one guest.
const (
	Forwards     = 512 // TCP connections at once; one more is reset
	Flows        = 256 // UDP flows at once; the packets of one more are lost
	dialing      = 64  // TCP connections that aren't answered yet; one more waits for its next try
	dialPatience = 15 * time.Second
	flowPatience = 60 * time.Second // of a flow without a packet
	maxDatagram  = 64 << 10
)

// NAT lets a guest out through the host's sockets. The zero NAT works.
type NAT struct {
	// Dial reaches an address of the world's; nil is the host's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolvers answer names; nil are those of the host's /etc/resolv.conf.
	Resolvers []netip.AddrPort
	// Own are the host's own addresses, which the guest doesn't reach; nil asks the host's network cards.
	Own func() ([]netip.Addr, error)
}

// nat forwards for one guest.
type nat struct {
	NAT
	network *Network
	logger  *slog.Logger
	streams crowd
	flows   crowd
}

func (n *Network) serveNAT(config NAT, logger *slog.Logger) error {
	if config.Dial == nil {
		config.Dial = new(net.Dialer).DialContext
	}
	if config.Own == nil {
		config.Own = cardAddresses
	}
	f := &nat{NAT: config, network: n, logger: logger, streams: crowd{most: Forwards}, flows: crowd{most: Flows}}
	if err := f.serveDNS(); err != nil {
		return err
	}
	// Packets to any address are ours, and answers come from there.
	if err := n.stack.SetPromiscuousMode(nic, true); err != nil {
		return errors.New(err.String())
	}
	if err := n.stack.SetSpoofing(nic, true); err != nil {
		return errors.New(err.String())
	}
	streams := tcp.NewForwarder(n.stack, receiveBuffer, dialing, f.stream)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, streams.HandlePacket)
	flows := udp.NewForwarder(n.stack, f.flow)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, flows.HandlePacket)
	return nil
}

// target is where the guest wants to, if it may.
func (f *nat) target(id stack.TransportEndpointID) (netip.AddrPort, bool) {
	to := netip.AddrPortFrom(netip.AddrFrom4(id.LocalAddress.As4()), id.LocalPort)
	if forbidden(to.Addr()) || f.isOwn(to.Addr()) {
		f.logger.Debug("a guest was refused the way to an address of the host's", slog.String("address", to.String()))
		return to, false
	}
	return to, true
}

// forbidden tells whether no guest may reach an address, whatever host it is on.
func forbidden(a netip.Addr) bool {
	first := a.As4()[0]
	return a.IsLoopback() || a.IsLinkLocalUnicast() || first == 0 || first >= 224 // multicast, reserved, broadcast
}

// isOwn tells whether an address is the host's, which would take a call from itself for a friend's.
func (f *nat) isOwn(a netip.Addr) bool {
	own, err := f.Own()
	if err != nil {
		f.logger.Warn("the host's addresses aren't known, so a guest is refused every address", slog.Any("error", err))
		return true
	}
	for _, o := range own {
		if o.Unmap() == a {
			return true
		}
	}
	return false
}

func cardAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addresses = append(addresses, prefix.Addr())
		}
	}
	return addresses, nil
}

// stream forwards a TCP connection, on a goroutine that the stack has started.
func (f *nat) stream(request *tcp.ForwarderRequest) {
	if !f.network.crew.enter() {
		request.Complete(true)
		return
	}
	defer f.network.crew.all.Done()
	to, ok := f.target(request.ID())
	if !ok || !f.streams.enter() {
		request.Complete(true)
		return
	}
	ctx, cancel := context.WithTimeout(f.network.crew.context, dialPatience)
	defer cancel()
	outside, err := f.Dial(ctx, "tcp", to.String())
	if err != nil {
		f.streams.forget()
		request.Complete(true)
		return
	}
	queue := new(waiter.Queue)
	endpoint, failed := request.CreateEndpoint(queue)
	request.Complete(failed != nil)
	if failed != nil {
		f.streams.forget()
		outside.Close()
		return
	}
	f.network.join(f.streams.conn(queue, endpoint), outside)
}

// flow forwards a flow of UDP packets, and is called by the wire, which it doesn't hold up.
func (f *nat) flow(request *udp.ForwarderRequest) {
	to, ok := f.target(request.ID())
	if !ok || !f.flows.enter() {
		return
	}
	queue := new(waiter.Queue)
	endpoint, failed := request.CreateEndpoint(queue)
	if failed != nil {
		f.flows.forget()
		return
	}
	inside := gonet.NewUDPConn(queue, endpoint)
	if !f.network.crew.do(func() {
		defer f.flows.forget()
		defer inside.Close()
		ctx, cancel := context.WithTimeout(f.network.crew.context, dialPatience)
		outside, err := f.Dial(ctx, "udp", to.String())
		cancel()
		if err == nil {
			f.network.relay(inside, outside)
		}
	}) {
		f.flows.forget()
		inside.Close()
	}
}

// half is a connection whose directions end one by one.
type half interface {
	net.Conn
	CloseWrite() error
}

// join copies between two connections, until both directions have ended or the network does, and closes
// them.
func (n *Network) join(inside half, outside net.Conn) {
	defer context.AfterFunc(n.crew.context, func() {
		outside.Close()
		inside.Close()
	})()
	copied := make(chan struct{})
	go func() { // ends with its connections, before join does
		defer close(copied)
		send(outside, inside)
	}()
	send(inside, outside)
	<-copied
	outside.Close()
	inside.Close()
}

// send copies one direction. Where it breaks, the other one has no use any more.
func send(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	if h, ok := to.(half); ok {
		_ = h.CloseWrite()
	} else {
		to.Close()
	}
}

// relay passes packets between two connections until none has come for a while, or the network ends.
func (n *Network) relay(inside, outside net.Conn) {
	stop := func() {
		outside.Close()
		inside.Close()
	}
	defer context.AfterFunc(n.crew.context, stop)()
	idle := time.AfterFunc(flowPatience, stop)
	defer idle.Stop()
	passed := make(chan struct{})
	go func() { // ends with its connections, before relay does
		defer close(passed)
		pass(inside, outside, idle)
	}()
	pass(outside, inside, idle)
	stop()
	<-passed
}

// pass passes packets in one direction. A packet that can't be sent is lost, as packets may be.
func pass(to, from net.Conn, idle *time.Timer) {
	packet := make([]byte, maxDatagram)
	for {
		n, err := from.Read(packet)
		if err != nil {
			return
		}
		if !idle.Reset(flowPatience) {
			return // its time was over
		}
		_, _ = to.Write(packet[:n])
	}
}
