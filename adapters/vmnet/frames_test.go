package vmnet_test

import (
	"net"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// ipFrame is a frame to the gateway with an IPv4 packet of so many bytes after its header.
func ipFrame(from net.HardwareAddr, source [4]byte, size int) []byte {
	frame := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+size)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(from), DstAddr: tcpip.LinkAddress(vmnet.GatewayMAC), Type: header.IPv4ProtocolNumber,
	})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + size), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
		SrcAddr: tcpip.AddrFrom4(source), DstAddr: tcpip.AddrFrom4(vmnet.Gateway.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame
}
