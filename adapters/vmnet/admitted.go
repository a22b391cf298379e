package vmnet

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	guestMAC   = tcpip.LinkAddress(GuestMAC)
	gatewayMAC = tcpip.LinkAddress(GatewayMAC)
	guestAddr  = address(Guest.Addr())
	gateway    = address(Gateway)
)

// The ports of DHCP.
const (
	dhcpServer = 67
	dhcpClient = 68
)

// admitted tells whether the guest may send a frame, of at least an Ethernet header: only as itself, and
// only ARP and IPv4. A peer that the guest routes for has another address, or another card.
func admitted(frame []byte) bool {
	ethernet := header.Ethernet(frame)
	if to := ethernet.DestinationAddress(); to != gatewayMAC && to != header.EthernetBroadcastAddress {
		return false
	}
	if ethernet.SourceAddress() != guestMAC {
		return false
	}
	payload := frame[header.EthernetMinimumSize:]
	switch ethernet.Type() {
	case header.ARPProtocolNumber:
		return admittedARP(payload)
	case header.IPv4ProtocolNumber:
		return admittedIPv4(payload)
	}
	return false
}

func admittedARP(packet []byte) bool {
	arp := header.ARP(packet)
	if !arp.IsValid() || tcpip.LinkAddress(arp.HardwareAddressSender()) != guestMAC {
		return false
	}
	from := tcpip.AddrFromSlice(arp.ProtocolAddressSender())
	return from == guestAddr || from.Unspecified() // which asks whether an address is taken
}

func admittedIPv4(packet []byte) bool {
	ip := header.IPv4(packet)
	if len(packet) < header.IPv4MinimumSize || !ip.IsValid(len(packet)) {
		return false
	}
	if ip.SourceAddress() == guestAddr {
		switch ip.TransportProtocol() {
		case header.TCPProtocolNumber:
			return admittedTCP(ip)
		case header.ICMPv4ProtocolNumber:
			return admittedICMP(ip)
		}
		return true
	}
	if !ip.SourceAddress().Unspecified() || ip.TransportProtocol() != header.UDPProtocolNumber || ip.FragmentOffset() != 0 {
		return false
	}
	// It has no address yet, and may ask for one.
	udp := header.UDP(ip.Payload())
	return len(udp) >= header.UDPMinimumSize && udp.SourcePort() == dhcpClient && udp.DestinationPort() == dhcpServer
}

// leastSegment is the least that a guest may want of TCP at once. The stack keeps some hundred bytes for each
// segment that isn't acknowledged, and bounds only what is in them.
const leastSegment = header.TCPDefaultMSS

// admittedTCP refuses a connection of tiny segments. It looks at whole packets, and nobody cuts those of TCP.
func admittedTCP(ip header.IPv4) bool {
	if ip.More() || ip.FragmentOffset() != 0 || len(ip.Payload()) < header.TCPMinimumSize {
		return false
	}
	segment := header.TCP(ip.Payload())
	if at := int(segment.DataOffset()); at < header.TCPMinimumSize || at > len(segment) {
		return false
	}
	flags := segment.Flags()
	return !flags.Contains(header.TCPFlagSyn) ||
		header.ParseSynOptions(segment.Options(), flags.Contains(header.TCPFlagAck)).MSS >= leastSegment
}

// admittedICMP lets echoes of the gateway through: the stack would answer in the name of everybody else, too,
// where a guest is let out. An error is not for a guest to tell, on a network without routers: one of a packet
// that was too big would make segments tiny.
func admittedICMP(ip header.IPv4) bool {
	if ip.DestinationAddress() != gateway {
		return false
	}
	if ip.FragmentOffset() != 0 {
		return true // of what was looked at
	}
	if len(ip.Payload()) < header.ICMPv4MinimumSize {
		return false
	}
	kind := header.ICMPv4(ip.Payload()).Type()
	return kind == header.ICMPv4Echo || kind == header.ICMPv4EchoReply
}

// hops is how far an answer from the metadata address goes: to the guest, and to nobody that it routes for.
const hops = 1

// shorten gives a frame of the stack's its hop limit, if it comes from the metadata address. A socket's
// own limit isn't enough: the library answers a handshake without it.
func shorten(frame []byte) {
	if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return
	}
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if ip.SourceAddress() != gateway || ip.TransportProtocol() != header.TCPProtocolNumber || header.TCP(ip.Payload()).SourcePort() != MetadataPort {
		return
	}
	ip.SetTTL(hops)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}
