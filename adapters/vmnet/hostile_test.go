package vmnet_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// works sees that the metadata address can be reached, whatever the guest did before.
func works(t *testing.T, g *guest) {
	t.Helper()
	if got := greeting(t, g.mustDial(t, metadata)); got != "metadata" {
		t.Errorf("greeted by %q", got)
	}
}

// Frames that can't be are dropped, and those that follow are taken.
func TestFramesThatCannotBe(t *testing.T) {
	guestIP := vmnet.Guest.Addr().As4()
	whole := ipFrame(vmnet.GuestMAC, guestIP, 8)
	change := func(at int, to byte) []byte {
		frame := append([]byte(nil), whole...)
		frame[at] = to
		return frame
	}
	arp := func(sender net.HardwareAddr, is [4]byte) []byte {
		frame := make([]byte, header.EthernetMinimumSize+header.ARPSize)
		header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(vmnet.GuestMAC),
			DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber})
		a := header.ARP(frame[header.EthernetMinimumSize:])
		a.SetIPv4OverEthernet()
		a.SetOp(header.ARPReply)
		copy(a.HardwareAddressSender(), sender)
		copy(a.ProtocolAddressSender(), is[:])
		return frame
	}
	refused := map[string][]byte{
		"nothing":                    {},
		"one byte":                   {1},
		"less than a header":         make([]byte, 13),
		"a header alone":             whole[:14],
		"less than an IPv4 header":   whole[:33],
		"longer than the MTU":        make([]byte, 14+vmnet.MTU+1),
		"as long as QEMU can":        make([]byte, 4096+65536),
		"IPv6":                       change(12, 0x86),
		"version 6 in IPv4":          change(14, 0x65),
		"a short header length":      change(14, 0x44),
		"a long header length":       change(14, 0x4f),
		"a total length beyond it":   change(16, 0xff),
		"a multicast frame":          change(0, 0x01),
		"another card's":             change(6, 0x02),
		"the address of nobody":      ipFrame(vmnet.GuestMAC, [4]byte{}, 8),
		"ARP for the gateway":        arp(vmnet.GuestMAC, vmnet.Gateway.As4()),
		"ARP with another card":      arp(vmnet.GatewayMAC, guestIP),
		"ARP that is cut":            arp(vmnet.GuestMAC, guestIP)[:40],
		"UDP from nobody":            udpFrame([4]byte{}, 68, 53),
		"UDP from nobody's old port": udpFrame([4]byte{}, 1000, 67),
		"ICMP of a small MTU":        change(34, uint8(header.ICMPv4DstUnreachable)),
		"ICMP for somebody else":     change(33, 1),
		"ICMP that is cut":           ipFrame(vmnet.GuestMAC, guestIP, 7),
		"TCP of tiny segments":       synFrame(0, 535),
		"TCP that is cut":            synFrame(0, 1460)[:14+20+19],
		"TCP in fragments":           synFrame(header.IPv4FlagMoreFragments, 1460),
	}
	n, conn := network(t, vmnet.Config{})
	go echo(n.Listener(), "metadata")
	g := newGuest(t, conn, itself)
	for name, frame := range refused {
		before := n.Refused()
		g.send(frame)
		eventually(t, name+" was not refused", func() bool { return n.Refused() == before+1 })
	}
	works(t, g)
	before := n.Refused()
	g.send(udpFrame([4]byte{}, 68, 67))
	g.send(arp(vmnet.GuestMAC, guestIP))
	g.send(whole)
	g.send(synFrame(0, 536))
	works(t, g)
	if got := n.Refused(); got != before {
		t.Errorf("%d frames were refused that a guest may send", got-before)
	}
}

// udpFrame is a UDP packet with nothing in it.
func udpFrame(source [4]byte, from, to uint16) []byte {
	frame := ipFrame(vmnet.GuestMAC, source, header.UDPMinimumSize)
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	frame[header.EthernetMinimumSize+9] = uint8(header.UDPProtocolNumber)
	header.UDP(ip.Payload()).Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: header.UDPMinimumSize})
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame
}

// synFrame asks for a connection with segments of so many bytes at most.
func synFrame(fragment uint8, most uint16) []byte {
	const size = header.TCPMinimumSize + 4
	frame := ipFrame(vmnet.GuestMAC, vmnet.Guest.Addr().As4(), size)
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	frame[header.EthernetMinimumSize+9] = uint8(header.TCPProtocolNumber)
	ip.SetFlagsFragmentOffset(fragment, 0)
	segment := header.TCP(ip.Payload())
	segment.Encode(&header.TCPFields{SrcPort: 1000, DstPort: vmnet.MetadataPort, DataOffset: size, Flags: header.TCPFlagSyn, WindowSize: 1000})
	header.EncodeMSSOption(uint32(most), segment[header.TCPMinimumSize:])
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame
}

// What announces more than QEMU ever sends is no frame. Nothing is allocated for it.
func TestFrameThatNobodySends(t *testing.T) {
	for _, size := range []uint32{4096 + 65536 + 1, 1 << 31, 1<<32 - 1} {
		n, conn := network(t, vmnet.Config{})
		if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, size)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-n.Done():
		case <-time.After(patience):
			t.Fatal("the network goes on")
		}
		if err := n.Err(); err == nil || !strings.Contains(err.Error(), "69632 at most") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// A guest that takes nothing makes the host keep no more than a bound, and nobody wait.
func TestGuestThatTakesNothing(t *testing.T) {
	n, conn := network(t, vmnet.Config{})
	request := make([]byte, 0, 1<<20)
	for range 16 { // the gateway answers each
		request = append(request, framed(pingFrame(vmnet.MTU-header.IPv4MinimumSize))...)
	}
	before := heap()
	for range 64 { // 64 MiB of answers
		conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := conn.Write(request); err != nil {
			t.Fatalf("the host doesn't read on: %v", err)
		}
	}
	if grown := int64(heap()) - int64(before); grown > 24<<20 {
		t.Errorf("the host keeps %d bytes for a guest that takes none", grown)
	}
	// What was kept is whole frames.
	reader := bufio.NewReader(conn)
	conn.SetReadDeadline(time.Now().Add(patience))
	for range 8 {
		frame, err := readFrame(reader)
		if err != nil || len(frame) != header.EthernetMinimumSize+vmnet.MTU && header.Ethernet(frame).Type() != header.ARPProtocolNumber {
			t.Fatalf("a frame of %d bytes came, %v", len(frame), err)
		}
	}
	n.Close()
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// pingFrame asks the gateway for an answer of the same size.
func pingFrame(size int) []byte {
	frame := ipFrame(vmnet.GuestMAC, vmnet.Guest.Addr().As4(), size)
	icmp := header.ICMPv4(frame[header.EthernetMinimumSize+header.IPv4MinimumSize:])
	icmp.SetType(header.ICMPv4Echo)
	icmp.SetChecksum(header.ICMPv4Checksum(icmp, 0))
	return frame
}

// One connection more than there may be is reset, and there is room again when one has ended.
func TestConnectionsAtOnce(t *testing.T) {
	n, conn := network(t, vmnet.Config{})
	g := newGuest(t, conn, itself)
	go echo(n.Listener(), "metadata")
	var all []net.Conn
	for len(all) < vmnet.Connections {
		c := g.mustDial(t, metadata)
		if got := greeting(t, c); got != "metadata" {
			t.Fatalf("greeted by %q", got)
		}
		all = append(all, c)
	}
	c, err := g.dial(metadata, patience)
	if err == nil {
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err = c.Read(make([]byte, 1)); err == nil || isTimeout(err) || err == io.EOF {
			t.Errorf("one more was answered with %v", err)
		}
		c.Close()
	}
	all[0].Close()
	eventually(t, "there is no room again", func() bool {
		c, err := g.dial(metadata, patience)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
		return err == nil
	})
}

// A guest that never reads what a connection brought it makes the host remember few such connections
// when their time is over, however many there were.
func TestConnectionsThatDoNotEnd(t *testing.T) {
	const rounds = 300
	n, conn := network(t, vmnet.Config{})
	g := newGuest(t, conn, itself)
	go func() {
		block := make([]byte, 256<<10)
		for {
			c, err := n.Listener().Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
				for {
					if _, err := c.Write(block); err != nil {
						return // the guest reads nothing
					}
				}
			}()
		}
	}()
	resets := make(chan struct{}, rounds)
	g.watch(func(frame []byte) {
		if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
			return
		}
		ip := header.IPv4(frame[header.EthernetMinimumSize:])
		if ip.TransportProtocol() == header.TCPProtocolNumber && header.TCP(ip.Payload()).Flags().Contains(header.TCPFlagRst) {
			select {
			case resets <- struct{}{}:
			default:
			}
		}
	})
	for range rounds {
		g.mustDial(t, metadata) // and leave it
	}
	// Those that are many are reset, and the guest's own stack ends them for good.
	eventually(t, "the host goes on with all of them", func() bool { return len(resets) >= rounds-vmnet.MaxClosing })
}

// What nobody reads stays with the guest, but for one buffer.
func TestConnectionThatNobodyReads(t *testing.T) {
	n, conn := network(t, vmnet.Config{})
	g := newGuest(t, conn, itself)
	small := &tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 4 << 10, Max: 4 << 10}
	if err := g.stack.SetTransportProtocolOption(header.TCPProtocolNumber, small); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := n.Listener().Accept(); err == nil {
			accepted <- c
		}
	}()
	c := g.mustDial(t, metadata)
	defer (<-accepted).Close()
	sent := 0
	for block := make([]byte, 4<<10); ; {
		c.SetWriteDeadline(time.Now().Add(2 * time.Second)) // for each: a busy machine is slow, and not at its end
		written, err := c.Write(block)
		sent += written
		if err != nil {
			break
		}
		if sent > 8<<20 {
			t.Fatalf("the host took %d bytes that nobody reads", sent)
		}
	}
	if most := vmnet.ReceiveBuffer + 128<<10; sent > most || sent < vmnet.ReceiveBuffer/2 {
		t.Errorf("the host took %d bytes that nobody reads, there should be %d at most", sent, most)
	}
}
