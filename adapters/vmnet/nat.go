package vmnet

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/hexworker/metaservice/domain"
)

// Limits of what is forwarded for one guest.
const (
	DefaultForwards = 512              // TCP connections at once
	DefaultFlows    = 256              // UDP flows at once
	DefaultIdle     = 15 * time.Minute // of a TCP connection without a byte
	DefaultFlowIdle = time.Minute      // of a UDP flow without a packet

	dialing      = 64               // TCP connections that aren't open yet; one more waits for its next try
	dialPatience = 15 * time.Second // for the world to answer
	takePatience = 15 * time.Second // for the guest to take the answer; the stack would have it be two minutes
	maxDatagram  = 64 << 10
	copyBuffer   = 32 << 10
)

// NAT lets a guest out through the host's sockets. The zero NAT works.
type NAT struct {
	// Dial reaches an address of the world's; nil is the host's own network, without the host itself. Where a
	// Dial of another's leads is that one's to see to: what it is asked for is never an address of the host's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolvers answer names; nil are those of the host's /etc/resolv.conf.
	Resolvers []netip.AddrPort
	// Own are the host's own addresses, which the guest doesn't reach; nil asks the host's network cards. It
	// is called once a second at most for each guest.
	Own func() ([]netip.Addr, error)

	Forwards int           // TCP connections at once; one more is reset; 0 is DefaultForwards
	Flows    int           // UDP flows at once; the packets of one more are lost; 0 is DefaultFlows
	Idle     time.Duration // a TCP connection that brings no byte either way for so long ends, half closed or not; 0 is DefaultIdle
	FlowIdle time.Duration // and a UDP flow without a packet; 0 is DefaultFlowIdle

	take time.Duration // for the guest to take an answer; 0 is takePatience
}

// withDefaults is a NAT in which nothing is left open.
func (c NAT) withDefaults() (NAT, error) {
	if c.Forwards < 0 || c.Flows < 0 || c.Idle < 0 || c.FlowIdle < 0 {
		return c, errors.New("a limit of what is forwarded can't be negative")
	}
	c.Forwards, c.Flows = cmp.Or(c.Forwards, DefaultForwards), cmp.Or(c.Flows, DefaultFlows)
	c.Idle, c.FlowIdle = cmp.Or(c.Idle, DefaultIdle), cmp.Or(c.FlowIdle, DefaultFlowIdle)
	c.take = cmp.Or(c.take, takePatience)
	if c.Dial == nil {
		c.Dial = dialOutside
	}
	if c.Own == nil {
		c.Own = cardAddresses
	}
	if c.Resolvers == nil {
		c.Resolvers = systemResolvers()
	}
	return c, nil
}

// nat forwards for one guest.
type nat struct {
	NAT
	dialResolver func(ctx context.Context, network, address string) (net.Conn, error) // which may be on the host
	own          *own
	network      *Network
	logger       *slog.Logger
	streams      crowd
	flows        crowd

	mu      sync.Mutex    // guards what follows
	unknown domain.Seldom // flows that were refused since the host didn't know its own addresses
}

func (n *Network) serveNAT(config NAT, logger *slog.Logger) error {
	dialResolver := config.Dial
	if dialResolver == nil {
		dialResolver = new(net.Dialer).DialContext
	}
	config, err := config.withDefaults()
	if err != nil {
		return err
	}
	f := &nat{
		NAT: config, dialResolver: dialResolver, own: newOwn(config.Own), network: n, logger: logger,
		streams: crowd{most: config.Forwards}, flows: crowd{most: config.Flows},
	}
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
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, func(id stack.TransportEndpointID, packet *stack.PacketBuffer) bool {
		defer packet.DecRef() // what the library takes for a request, it never gives back
		return flows.HandlePacket(id, packet)
	})
	return nil
}

// target is where the guest wants to.
func target(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(id.LocalAddress.As4()), id.LocalPort)
}

// mayReach tells whether a guest may reach an address. It may have to wait for what the host's cards say.
func (f *nat) mayReach(ctx context.Context, to netip.AddrPort) bool {
	refused := forbidden(to.Addr())
	if !refused {
		var err error
		if refused, err = f.own.has(ctx, to.Addr()); err != nil {
			f.tellUnknown(err)
			return false
		}
	}
	if refused {
		f.logger.Debug("a guest was refused the way to an address of the host's", slog.String("address", to.String()))
	}
	return !refused
}

// tellUnknown tells why a guest is let out nowhere. It begins flows as fast as it sends packets.
func (f *nat) tellUnknown(err error) {
	f.mu.Lock()
	tell, time := f.unknown.Again(), uint64(f.unknown)
	f.mu.Unlock()
	if tell {
		f.logger.Warn("the host's addresses aren't known, so a guest is refused every address", slog.Any("error", err), slog.Uint64("time", time))
	}
}

// stream forwards a TCP connection, on a goroutine that the stack has started.
func (f *nat) stream(request *tcp.ForwarderRequest) {
	if !f.network.crew.enter() {
		request.Complete(true)
		return
	}
	defer f.network.crew.all.Done()
	ctx, cancel := context.WithTimeout(f.network.crew.context, dialPatience)
	defer cancel()
	to := target(request.ID())
	if !f.mayReach(ctx, to) || !f.streams.enter() {
		request.Complete(true)
		return
	}
	outside, err := f.Dial(ctx, "tcp", to.String())
	if err != nil {
		f.streams.forget()
		request.Complete(true)
		return
	}
	queue := new(waiter.Queue)
	// The library waits for the guest as long as there is nothing to notice at the endpoint, and gives up one that
	// isn't open then.
	over := time.AfterFunc(f.take, func() { queue.Notify(waiter.WritableEvents) })
	endpoint, failed := request.CreateEndpoint(queue)
	over.Stop()
	request.Complete(failed != nil)
	if failed != nil {
		f.streams.forget()
		outside.Close()
		return
	}
	f.network.join(f.streams.conn(queue, endpoint), outside, f.Idle)
}

// flow forwards a flow of UDP packets, and is called by the wire, which it doesn't hold up.
func (f *nat) flow(request *udp.ForwarderRequest) {
	to := target(request.ID())
	if forbidden(to.Addr()) || !f.flows.enter() {
		return
	}
	queue := new(waiter.Queue)
	endpoint, failed := request.CreateEndpoint(queue)
	if failed != nil {
		f.flows.forget()
		return
	}
	inside := gonet.NewUDPConn(queue, endpoint)
	forward := func() {
		defer f.flows.forget()
		defer inside.Close()
		ctx, cancel := context.WithTimeout(f.network.crew.context, dialPatience)
		defer cancel()
		if !f.mayReach(ctx, to) {
			return
		}
		if outside, err := f.Dial(ctx, "udp", to.String()); err == nil {
			f.network.relay(inside, outside, f.FlowIdle)
		}
	}
	if !f.network.crew.do(forward) {
		f.flows.forget()
		inside.Close()
	}
}
