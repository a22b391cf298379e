package vmnet_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/hexworker/metaservice/adapters/vmnet"
	"github.com/hexworker/metaservice/tests/contract"
)

// packetFrame is a frame of the guest's with a packet of one protocol to an address.
func packetFrame(protocol tcpip.TransportProtocolNumber, to netip.Addr, payload []byte) []byte {
	frame := ipFrame(vmnet.GuestMAC, vmnet.Guest.Addr().As4(), len(payload))
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	frame[header.EthernetMinimumSize+9] = uint8(protocol)
	ip.SetDestinationAddress(tcpip.AddrFrom4(to.As4()))
	copy(ip.Payload(), payload)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame
}

// datagram is a UDP packet, whose checksum is left out.
func datagram(from, to uint16, payload string) []byte {
	packet := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	header.UDP(packet).Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: uint16(header.UDPMinimumSize + len(payload))})
	return append(packet, payload...)
}

// segment is one of TCP to an address.
func segment(to netip.Addr, fields header.TCPFields, payload string) []byte {
	size := header.TCPMinimumSize
	if fields.Flags.Contains(header.TCPFlagSyn) {
		size += 4
	}
	packet := append(make([]byte, size), payload...)
	s := header.TCP(packet)
	fields.DataOffset, fields.WindowSize = uint8(size), 1<<15
	s.Encode(&fields)
	if size > header.TCPMinimumSize {
		header.EncodeMSSOption(1460, packet[header.TCPMinimumSize:])
	}
	pseudo := header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpip.AddrFrom4(vmnet.Guest.Addr().As4()), tcpip.AddrFrom4(to.As4()), uint16(len(packet)))
	s.SetChecksum(^s.CalculateChecksum(pseudo))
	return packetFrame(header.TCPProtocolNumber, to, packet)
}

// synFlags begin a connection.
const synFlags = header.TCPFlagSyn

// Whatever a guest sends, and however much of it, the host keeps a bounded part: of what waits in some queue as much
// as may wait there, and of what it has worked off next to nothing for each frame. The frames are few bytes each, of
// which the stack's own limits, on bytes in packets, count none or one.
func TestFloods(t *testing.T) {
	elsewhere := netip.MustParseAddr("192.0.2.9")
	const whole, times = 1 << 14, 4 // 46 MiB of them, if they were kept
	const trace = 256               // bytes of a frame that is gone; one that is kept takes 1 KiB and more
	for name, test := range map[string]struct {
		nat   bool
		stays bool // in some queue
		frame func(i int) []byte
	}{
		"connections that are begun": {false, false, func(i int) []byte {
			return segment(vmnet.Gateway, header.TCPFields{SrcPort: uint16(i), DstPort: vmnet.MetadataPort, SeqNum: uint32(i), Flags: synFlags}, "")
		}},
		"connections out that are begun": {true, false, func(i int) []byte {
			return segment(elsewhere, header.TCPFields{SrcPort: uint16(i), DstPort: uint16(i >> 16), SeqNum: uint32(i), Flags: synFlags}, "")
		}},
		"segments of no connection": {false, false, func(i int) []byte {
			return segment(vmnet.Gateway, header.TCPFields{SrcPort: uint16(i), DstPort: vmnet.MetadataPort, SeqNum: uint32(i), Flags: header.TCPFlagAck}, "x")
		}},
		"fragments of no packet":  {true, false, fragment},
		"questions for addresses": {true, false, arpQuestion},
		"what is no message of DHCP": {false, false, func(int) []byte {
			return packetFrame(header.UDPProtocolNumber, vmnet.Gateway, datagram(68, 67, ""))
		}},
		"what is no question for a name": {true, false, func(i int) []byte {
			return packetFrame(header.UDPProtocolNumber, vmnet.Gateway, datagram(uint16(i), 53, ""))
		}},
		"empty packets that nobody takes": {true, true, func(i int) []byte {
			return packetFrame(header.UDPProtocolNumber, elsewhere, datagram(uint16(i%300), 9, ""))
		}},
		"short packets that nobody takes": {true, true, func(i int) []byte {
			return packetFrame(header.UDPProtocolNumber, elsewhere, datagram(uint16(i%300), 9, "x"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			config := vmnet.Config{}
			if test.nat {
				config.NAT = silentWorld()
			}
			n, conn := network(t, config)
			go io.Copy(io.Discard, conn)
			frames, most := whole, int64(vmnet.MaxHeld+vmnet.MaxOutgoing)
			if !test.stays {
				if !*contract.Long {
					frames /= 16
				}
				most = int64(frames * times * trace)
			}
			var batch []byte
			for i := range frames {
				batch = append(batch, framed(test.frame(i))...)
			}
			before := settledHeap()
			for range times {
				conn.SetWriteDeadline(time.Now().Add(patience))
				if _, err := conn.Write(batch); err != nil {
					t.Fatalf("the host doesn't read on: %v", err)
				}
			}
			if _, err := conn.Write(framed(nil)); err != nil { // which is refused once all before it has been taken
				t.Fatal(err)
			}
			eventually(t, "the host doesn't come to the end", func() bool { return n.Refused() == 1 })
			var kept int64
			for over := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // it may still be at work
				if kept = settledHeap() - before; kept <= most || time.Now().After(over) {
					break
				}
			}
			if kept > most {
				t.Errorf("the host keeps %d bytes, %d at most are meant", kept, most)
			} else {
				t.Logf("the host keeps %d KiB of %d", kept>>10, most>>10)
			}
		})
	}
}

// settledHeap is what is in use, without what pools keep for a while.
func settledHeap() int64 {
	runtime.GC()
	runtime.GC()
	return int64(heap())
}

// silentWorld is one in which nobody answers.
func silentWorld() *vmnet.NAT {
	return &vmnet.NAT{
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		Own:       func() ([]netip.Addr, error) { return nil, nil },
	}
}

// fragment is the first of a packet whose others never come.
func fragment(i int) []byte {
	frame := packetFrame(header.UDPProtocolNumber, vmnet.Gateway, make([]byte, 8))
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.SetID(uint16(i))
	ip.SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, uint16(i>>16)*8)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame
}

// arpQuestion asks which card has an address.
func arpQuestion(i int) []byte {
	frame := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(vmnet.GuestMAC),
		DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber})
	question := header.ARP(frame[header.EthernetMinimumSize:])
	question.SetIPv4OverEthernet()
	question.SetOp(header.ARPRequest)
	copy(question.HardwareAddressSender(), vmnet.GuestMAC)
	copy(question.ProtocolAddressSender(), vmnet.Guest.Addr().AsSlice())
	binary.BigEndian.PutUint32(question.ProtocolAddressTarget(), uint32(i))
	return frame
}

// A guest that takes nothing of what its connections out bring has the host keep a buffer for each, and no more.
func TestConnectionsOutThatNobodyReads(t *testing.T) {
	const forwards = 32
	source, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	var sent atomic.Int64
	go func() {
		for {
			conn, err := source.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for block := make([]byte, 32<<10); ; {
					n, err := conn.Write(block)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	w := &world{places: map[string]string{"tcp 192.0.2.1:80": source.Addr().String()}}
	nat := w.nat()
	nat.Forwards = forwards
	_, conn := network(t, vmnet.Config{NAT: nat})
	g := newGuest(t, conn, itself)
	small := &tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 4 << 10, Max: 4 << 10}
	if err := g.stack.SetTransportProtocolOption(header.TCPProtocolNumber, small); err != nil {
		t.Fatal(err)
	}
	before := settledHeap()
	for range forwards {
		g.mustDial(t, "192.0.2.1:80")
	}
	const quiet = 2 * time.Second // of a world that is held back, and not of one that is slow
	last, since := sent.Load(), time.Now()
	eventually(t, "the world never stops sending", func() bool {
		if now := sent.Load(); now != last {
			last, since = now, time.Now()
		}
		return last > 0 && time.Since(since) > quiet
	})
	kept := settledHeap() - before
	if most := int64(forwards * vmnet.ForwardCost); kept > most || kept < forwards*vmnet.SendBuffer/2 {
		t.Errorf("the host keeps %d bytes for %d connections, it should be %d at most", kept, forwards, most)
	} else {
		t.Logf("the host keeps %d KiB for each", kept/forwards>>10)
	}
}
