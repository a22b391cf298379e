package vmnet_test

import (
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/hexworker/metaservice/adapters/vmnet"
	"github.com/hexworker/metaservice/tests/contract"
)

// Whatever a guest sends, its network goes on, and so does the host: a panic in the library would end it, with all
// other guests. Sums are set right, since what has wrong ones doesn't get far.
func TestFramesThatAreSpoilt(t *testing.T) {
	frames := 4_000
	if *contract.Long {
		frames = 1_000_000
	}
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	n, conn := network(t, vmnet.Config{NAT: silentWorld()})
	go echo(n.Listener(), "metadata")
	go io.Copy(io.Discard, conn)
	seeds := [][]byte{
		arpQuestion(7), fragment(9), pingFrame(8),
		segment(vmnet.Gateway, header.TCPFields{SrcPort: 7, DstPort: vmnet.MetadataPort, SeqNum: 1, Flags: synFlags}, ""),
		segment(vmnet.Gateway, header.TCPFields{SrcPort: 7, DstPort: vmnet.MetadataPort, SeqNum: 2, Flags: header.TCPFlagAck}, "GET / HTTP/1.1\r\n\r\n"),
		segment(netip.MustParseAddr("192.0.2.1"), header.TCPFields{SrcPort: 8, DstPort: 80, SeqNum: 1, Flags: synFlags}, ""),
		packetFrame(header.UDPProtocolNumber, vmnet.Gateway, datagram(7, 53, string(dnsMessage(1, recursion, 1)))),
		packetFrame(header.UDPProtocolNumber, vmnet.Gateway, datagram(68, 67, string(make([]byte, 300)))),
		packetFrame(header.UDPProtocolNumber, netip.MustParseAddr("192.0.2.1"), datagram(7, 9, "x")),
	}
	want, taken := int64(0), 0
	for i := range frames {
		frame := sound(spoil(random, seeds[random.IntN(len(seeds))]))
		if len(frame) < header.EthernetMinimumSize || len(frame) > header.EthernetMinimumSize+vmnet.MTU || !vmnet.Admitted(frame) {
			want++
		} else {
			taken++
		}
		conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := conn.Write(framed(frame)); err != nil {
			t.Fatalf("after %d frames: %v, %v", i, err, n.Err())
		}
	}
	eventually(t, "the network doesn't go on", func() bool { return n.Refused() == want })
	if taken < frames/4 {
		t.Errorf("%d of %d frames were let in: they show nothing", taken, frames)
	}
	t.Logf("%d of %d frames were let in", taken, frames)
}

// spoil changes a frame in some places behind its first header, and its length at times. Options of IPv4 come in
// between, too.
func spoil(random *rand.Rand, seed []byte) []byte {
	frame := append([]byte(nil), seed...)
	const ip = header.EthernetMinimumSize
	if header.Ethernet(frame).Type() == header.IPv4ProtocolNumber && random.IntN(4) == 0 {
		options := make([]byte, 4*(1+random.IntN(10)))
		for i := range options {
			options[i] = []byte{0, 1, 7, 68, 131, 137, 148, byte(random.Uint32())}[random.IntN(8)]
		}
		const end = ip + header.IPv4MinimumSize
		frame = append(frame[:end:end], append(options, frame[end:]...)...)
		frame[ip] += uint8(len(options) / 4)
	}
	for range random.IntN(5) {
		frame[ip+random.IntN(len(frame)-ip)] = byte(random.Uint32())
	}
	switch random.IntN(8) {
	case 0:
		frame = frame[:random.IntN(len(frame)+1)]
	case 1:
		frame = append(frame, make([]byte, random.IntN(2000))...)
	}
	return frame
}

// sound is a frame of the guest's with right sums, as far as it is one at all.
func sound(frame []byte) []byte {
	frame = append([]byte(nil), frame[:min(len(frame), 4096+65536)]...)
	if len(frame) < header.EthernetMinimumSize+header.IPv4MinimumSize {
		return frame
	}
	copy(frame, vmnet.GatewayMAC)
	copy(frame[6:], vmnet.GuestMAC)
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber || int(ip.HeaderLength()) > len(ip) || ip.HeaderLength() < header.IPv4MinimumSize {
		return frame
	}
	ip.SetTotalLength(uint16(min(len(ip), 1<<16-1)))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	payload := ip.Payload()
	pseudo := header.PseudoHeaderChecksum(ip.TransportProtocol(), ip.SourceAddress(), ip.DestinationAddress(), uint16(len(payload)))
	switch ip.TransportProtocol() {
	case header.TCPProtocolNumber:
		if len(payload) >= header.TCPMinimumSize {
			header.TCP(payload).SetChecksum(0)
			header.TCP(payload).SetChecksum(^checksum.Checksum(payload, pseudo))
		}
	case header.UDPProtocolNumber:
		if len(payload) >= header.UDPMinimumSize {
			header.UDP(payload).SetChecksum(0) // none
		}
	case header.ICMPv4ProtocolNumber:
		if len(payload) >= header.ICMPv4MinimumSize {
			header.ICMPv4(payload).SetChecksum(0)
			header.ICMPv4(payload).SetChecksum(^checksum.Checksum(payload, 0))
		}
	}
	return frame
}
