package vmnet

import (
	"errors"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// lease outlives any guest, which may ask for it again all the same.
const lease = 24 * time.Hour

// maxDHCP is the longest message that is read.
const maxDHCP = 1500

// serveDHCP answers DHCP: always with the same address, since there is one guest.
func (n *Network) serveDHCP(router bool) error {
	queue := new(waiter.Queue)
	endpoint, err := n.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, queue)
	if err != nil {
		return errors.New(err.String())
	}
	endpoint.SocketOptions().SetBroadcast(true)
	if err := endpoint.Bind(tcpip.FullAddress{NIC: nic, Port: dhcpServer}); err != nil {
		endpoint.Close()
		return errors.New(err.String())
	}
	conn := gonet.NewUDPConn(queue, endpoint)
	n.closeAtEnd(conn)
	n.crew.do(func() {
		buffer := make([]byte, maxDHCP)
		everybody := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpClient}
		for {
			size, _, err := conn.ReadFrom(buffer)
			if err != nil {
				return // it was closed
			}
			if reply := answerDHCP(buffer[:size], router); reply != nil {
				_, _ = conn.WriteTo(reply, everybody) // it will ask again
			}
		}
	})
	return nil
}

// answerDHCP is the answer to a message, nil where there is none.
func answerDHCP(message []byte, router bool) []byte {
	request, err := dhcpv4.FromBytes(message)
	if err != nil || request.OpCode != dhcpv4.OpcodeBootRequest {
		return nil
	}
	answer := dhcpv4.MessageTypeOffer
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
	case dhcpv4.MessageTypeRequest:
		answer = dhcpv4.MessageTypeAck
		if asked := askedFor(request); !asked.Equal(Guest.Addr().AsSlice()) {
			answer = dhcpv4.MessageTypeNak
		}
	default:
		return nil
	}
	with := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(answer),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(Gateway.AsSlice())),
	}
	if answer != dhcpv4.MessageTypeNak {
		with = append(with,
			dhcpv4.WithYourIP(Guest.Addr().AsSlice()),
			dhcpv4.WithNetmask(net.CIDRMask(Guest.Bits(), 32)),
			dhcpv4.WithLeaseTime(uint32(lease/time.Second)),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, dhcpv4.Uint16(MTU).ToBytes())),
		)
		if router {
			with = append(with, dhcpv4.WithRouter(Gateway.AsSlice()), dhcpv4.WithDNS(Gateway.AsSlice()))
		}
	}
	reply, err := dhcpv4.NewReplyFromRequest(request, with...)
	if err != nil {
		return nil
	}
	return reply.ToBytes()
}

// askedFor is the address that a client wants: of an offer, or one that it has already.
func askedFor(request *dhcpv4.DHCPv4) net.IP {
	if asked := request.RequestedIPAddress(); asked != nil {
		return asked
	}
	return request.ClientIPAddr
}
