package listenmachine

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// maxHops is the most that the field of a packet holds.
const maxHops = 255

// linkLocal tells whether a place is at a link-local address, of either family.
func (p place) linkLocal() bool {
	addr, ok := p.addr()
	return ok && addr.IsLinkLocalUnicast()
}

// everywhere tells whether a place is at every address that this machine has, which a socket of IPv6 serves both
// families at.
func (p place) everywhere() bool {
	host, _, err := net.SplitHostPort(p.address)
	addr, ok := p.addr()
	return err == nil && (host == "" || ok && addr.IsUnspecified())
}

// addr is the address to listen at, where it is one and no name.
func (p place) addr() (netip.Addr, bool) {
	if p.network != "tcp" {
		return netip.Addr{}, false
	}
	host, _, err := net.SplitHostPort(p.address)
	if err != nil {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(host)
	return addr.Unmap(), err == nil
}

// withHops has a place's answers go so far, as Config.Hops says.
func (p place) withHops(hops int) (place, error) {
	switch {
	case hops < 0 || hops > maxHops:
		return place{}, fmt.Errorf("invalid configuration: Hops is %d, it must be from 0 to %d", hops, maxHops)
	case hops > 0 && p.network != "tcp":
		return place{}, fmt.Errorf("invalid configuration: Hops is %d, and %q is no address of a network", hops, p.address)
	case hops == 0 && p.linkLocal():
		hops = 1
	}
	p.hops = hops
	return p, nil
}

// boundHops bounds how far a listener's packets go, before it is bound: what is accepted has it from the listener,
// and so has the answer to the very first packet.
func (p place) boundHops(network, _ string, conn syscall.RawConn) error {
	if p.hops == 0 {
		return nil
	}
	var failed error
	err := conn.Control(func(fd uintptr) {
		if network == "tcp6" {
			failed = setHops(fd, syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS, p.hops)
		}
		if failed == nil && (network == "tcp4" || p.everywhere()) {
			failed = setHops(fd, syscall.IPPROTO_IP, syscall.IP_TTL, p.hops)
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("its answers can't be held to %d hops: %w", p.hops, err)
	}
	return nil
}
