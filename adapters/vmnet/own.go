package vmnet

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"
)

// confidants are services of clouds that aren't link-local, as others are: they tell a host its keys and take whoever
// calls from it for the host.
var confidants = []netip.Addr{
	netip.AddrFrom4([4]byte{168, 63, 129, 16}),   // Azure
	netip.AddrFrom4([4]byte{100, 100, 100, 200}), // Alibaba Cloud
}

// forbidden tells whether no guest may reach an address, whatever host it is on. What isn't IPv4 could only be
// another way to write one that is.
func forbidden(a netip.Addr) bool {
	if !a.Is4() {
		return true
	}
	first := a.As4()[0]
	return slices.Contains(confidants, a) || a.IsLoopback() || a.IsLinkLocalUnicast() || first == 0 || first >= 224 // multicast, reserved, broadcast
}

// ownAge is for how long the host's addresses are taken for what they were: to list them costs far more than
// the packet that a guest has it done for.
const ownAge = time.Second

// own knows the host's own addresses. A call from one of them would be taken for a friend's.
type own struct {
	list func() ([]netip.Addr, error)

	turn  chan struct{} // holds what guards the following
	known map[netip.Addr]bool
	err   error
	asked time.Time
}

func newOwn(list func() ([]netip.Addr, error)) *own {
	return &own{list: list, turn: make(chan struct{}, 1)}
}

// has tells whether an address is the host's. It may list them, or wait for another who does.
func (o *own) has(ctx context.Context, a netip.Addr) (bool, error) {
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	defer func() { <-o.turn }()
	if o.asked.IsZero() || time.Since(o.asked) >= ownAge {
		var all []netip.Addr
		all, o.err = o.list()
		o.known = make(map[netip.Addr]bool, len(all))
		for _, one := range all {
			o.known[one.Unmap()] = true
		}
		o.asked = time.Now()
	}
	return o.known[a], o.err
}

// cardAddresses are the addresses of the host's network cards.
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
