package vmnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// errHere is why an address isn't dialed that leads to the host.
var errHere = errors.New("it leads to the host itself")

// dialOutside reaches an address of the world's through the host's sockets, and never the host itself, by
// whatever name: the host's own cards are refused before, but its routes may lead other addresses to itself, and
// so may its rules for packets. A route is asked for before anything is sent. A socket that nothing can reach
// over the loopback device, whatever led there, never gets a handshake of the host's own.
func dialOutside(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if forbidden(to.Addr()) {
		return nil, fmt.Errorf("%s: %w", to, errHere)
	}
	if err := routedOutside(to.Addr()); err != nil {
		return nil, fmt.Errorf("%s: %w", to, err)
	}
	conn, err := outsideDialer.DialContext(ctx, network+"4", address)
	if err != nil {
		return nil, err
	}
	if isHere(conn) {
		return nil, errors.Join(fmt.Errorf("%s: %w", to, errHere), conn.Close())
	}
	return conn, nil
}

// outsideDialer makes sockets that the host can't be reached by.
var outsideDialer = net.Dialer{Control: keepOutside}

// isHere tells whether both ends of a connection have the same address, as they do on a way to oneself.
func isHere(conn net.Conn) bool {
	local, errLocal := netip.ParseAddrPort(conn.LocalAddr().String())
	remote, errRemote := netip.ParseAddrPort(conn.RemoteAddr().String())
	return errLocal != nil || errRemote != nil || local.Addr().Unmap() == remote.Addr().Unmap()
}
