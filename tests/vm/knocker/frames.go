//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Who is who on a guest's network.
var (
	guestMAC, gatewayMAC = tcpip.LinkAddress("\x5a\x94\xef\xe4\x0c\xee"), tcpip.LinkAddress("\x5a\x94\xef\xe4\x0c\xdd")
	guest, gateway       = netip.MustParseAddr("169.254.169.2"), netip.MustParseAddr("169.254.169.254")
)

// Types of frames in which others are.
const (
	vlan        = 0x8100
	serviceVLAN = 0x88a8
)

// framesTo are frames that all try to get a word, or a connection, to one address.
func framesTo(to netip.AddrPort, word string) [][]byte {
	if !to.Addr().Is4() {
		return framesTo6(to, word)
	}
	var frames [][]byte
	here := func(packet []byte) {
		frames = append(frames, frame(gatewayMAC, guestMAC, header.IPv4ProtocolNumber, packet))
	}
	plain := [][]byte{udp4(guest, to, word), tcp4(guest, to)}
	for _, packet := range plain {
		here(packet)
		here(sourceRouted(packet, to.Addr()))
		for _, tag := range []tcpip.NetworkProtocolNumber{vlan, serviceVLAN} {
			frames = append(frames, frame(gatewayMAC, guestMAC, tag, append([]byte{0, 1, 8, 0}, packet...)))
		}
		for _, wrapped := range []uint8{4, 47} { // IP in IP, and GRE
			inner := packet
			if wrapped == 47 {
				inner = append([]byte{0, 0, 8, 0}, packet...)
			}
			here(ip4(guest, gateway, wrapped, inner))
		}
		for _, card := range []tcpip.LinkAddress{"\xff\xff\xff\xff\xff\xff", "\x01\x00\x5e\x00\x00\x01", "\x00\x00\x00\x00\x00\x00", "\x02\x00\x00\x00\x00\x01", guestMAC} {
			frames = append(frames, frame(card, guestMAC, header.IPv4ProtocolNumber, packet))
			frames = append(frames, frame(gatewayMAC, card, header.IPv4ProtocolNumber, packet))
		}
		frames = append(frames, frame(gatewayMAC, guestMAC, header.IPv6ProtocolNumber, packet), packet)
	}
	for _, from := range []string{"0.0.0.0", "127.0.0.1", "169.254.169.254", "169.254.169.3", "10.0.0.1", "255.255.255.255", to.Addr().String()} {
		source := netip.MustParseAddr(from)
		here(udp4(source, to, word))
		here(tcp4(source, to))
	}
	for _, part := range fragments(udp4(guest, to, word)) {
		here(part)
	}
	// The same inside IPv6, by the names that IPv6 has for it.
	mapped, translated := to.Addr().As16(), netip.MustParseAddr("64:ff9b::").As16()
	copy(translated[12:], mapped[12:])
	for _, name := range [][16]byte{mapped, translated} {
		frames = append(frames, framesTo6(netip.AddrPortFrom(netip.AddrFrom16(name), to.Port()), word)...)
	}
	return frames
}

func framesTo6(to netip.AddrPort, word string) (frames [][]byte) {
	for _, from := range []string{"fe80::5894:efff:fee4:cee", "::ffff:169.254.169.2", "::1", "::"} {
		source := netip.MustParseAddr(from)
		datagram := datagram(to, word)
		packet := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(datagram))
		header.IPv6(packet).Encode(&header.IPv6Fields{PayloadLength: uint16(len(datagram)), TransportProtocol: header.UDPProtocolNumber,
			HopLimit: 64, SrcAddr: tcpip.AddrFrom16(source.As16()), DstAddr: tcpip.AddrFrom16(to.Addr().As16())})
		frames = append(frames, frame(gatewayMAC, guestMAC, header.IPv6ProtocolNumber, append(packet, datagram...)))
	}
	return frames
}

func frame(to, from tcpip.LinkAddress, kind tcpip.NetworkProtocolNumber, packet []byte) []byte {
	ethernet := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(packet))
	header.Ethernet(ethernet).Encode(&header.EthernetFields{SrcAddr: from, DstAddr: to, Type: kind})
	return append(ethernet, packet...)
}

func ip4(from, to netip.Addr, protocol uint8, payload []byte) []byte {
	ip := make(header.IPv4, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload))
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(cap(ip)), ID: 1, TTL: 64, Protocol: protocol,
		SrcAddr: tcpip.AddrFrom4(from.As4()), DstAddr: tcpip.AddrFrom4(to.As4())})
	ip.SetChecksum(^ip.CalculateChecksum())
	return append(ip, payload...)
}

// ports counts up, so that every knock is another connection.
var ports uint16 = 1024

// datagram is one of UDP; its checksum is left out.
func datagram(to netip.AddrPort, word string) []byte {
	ports++
	udp := append(make(header.UDP, header.UDPMinimumSize), word...)
	udp.Encode(&header.UDPFields{SrcPort: ports, DstPort: to.Port(), Length: uint16(len(udp))})
	return udp
}

func udp4(from netip.Addr, to netip.AddrPort, word string) []byte {
	return ip4(from, to.Addr(), uint8(header.UDPProtocolNumber), datagram(to, word))
}

func tcp4(from netip.Addr, to netip.AddrPort) []byte {
	ports++
	const size = header.TCPMinimumSize + 4
	tcp := make(header.TCP, size)
	tcp.Encode(&header.TCPFields{SrcPort: ports, DstPort: to.Port(), SeqNum: 1, DataOffset: size, Flags: header.TCPFlagSyn, WindowSize: 1 << 14})
	header.EncodeMSSOption(1460, tcp[header.TCPMinimumSize:])
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpip.AddrFrom4(from.As4()), tcpip.AddrFrom4(to.Addr().As4()), size)
	tcp.SetChecksum(^tcp.CalculateChecksum(sum))
	return ip4(from, to.Addr(), uint8(header.TCPProtocolNumber), tcp)
}

// sourceRouted asks for a packet to be sent on from the gateway, by a loose source route.
func sourceRouted(packet []byte, to netip.Addr) []byte {
	old := header.IPv4(packet)
	options := append([]byte{131, 7, 4}, to.AsSlice()...)
	ip := append(bytes.Clone(old[:header.IPv4MinimumSize]), append(options, 0)...)
	ip = append(ip, old.Payload()...)
	routed := header.IPv4(ip)
	routed[0] = 4<<4 | byte((header.IPv4MinimumSize+len(options)+1)/4)
	routed.SetTotalLength(uint16(len(ip)))
	routed.SetDestinationAddress(tcpip.AddrFrom4(gateway.As4()))
	routed.SetChecksum(0)
	routed.SetChecksum(^routed.CalculateChecksum())
	return ip
}

// fragments cuts a packet after the eight bytes of its UDP header.
func fragments(packet []byte) [][]byte {
	whole := header.IPv4(packet)
	cut := header.IPv4MinimumSize + header.UDPMinimumSize
	first := header.IPv4(bytes.Clone(packet[:cut]))
	first.SetTotalLength(uint16(cut))
	first.SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
	last := header.IPv4(append(bytes.Clone(packet[:header.IPv4MinimumSize]), packet[cut:]...))
	last.SetTotalLength(whole.TotalLength() - header.UDPMinimumSize)
	last.SetFlagsFragmentOffset(0, header.UDPMinimumSize)
	for _, ip := range []header.IPv4{first, last} {
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	}
	return [][]byte{first, last}
}

// question asks for the gateway's card.
func question() []byte {
	arp := make(header.ARP, header.ARPSize)
	arp.SetIPv4OverEthernet()
	arp.SetOp(header.ARPRequest)
	copy(arp.HardwareAddressSender(), guestMAC)
	copy(arp.ProtocolAddressSender(), guest.AsSlice())
	copy(arp.ProtocolAddressTarget(), gateway.AsSlice())
	return frame(header.EthernetBroadcastAddress, guestMAC, header.ARPProtocolNumber, arp)
}

func isAnswer(frame []byte) bool {
	if len(frame) < header.EthernetMinimumSize+header.ARPSize || binary.BigEndian.Uint16(frame[12:]) != uint16(header.ARPProtocolNumber) {
		return false
	}
	arp := header.ARP(frame[header.EthernetMinimumSize:])
	return arp.Op() == header.ARPReply && bytes.Equal(arp.ProtocolAddressSender(), gateway.AsSlice())
}
