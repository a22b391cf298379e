package vmnet_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// askDHCP sends a message as a guest without an address does, and returns the answer.
func askDHCP(t *testing.T, g *guest, message *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	answers := make(chan []byte, 16)
	g.watch(func(frame []byte) {
		if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
			return
		}
		ip := header.IPv4(frame[header.EthernetMinimumSize:])
		if ip.TransportProtocol() == header.UDPProtocolNumber && header.UDP(ip.Payload()).DestinationPort() == 68 {
			answers <- bytes.Clone(header.UDP(ip.Payload()).Payload())
		}
	})
	defer g.watch(nil)
	g.send(dhcpFrame(message.ToBytes()))
	select {
	case answer := <-answers:
		m, err := dhcpv4.FromBytes(answer)
		if err != nil {
			t.Fatal(err)
		}
		if m.TransactionID != message.TransactionID {
			t.Error("it answers something else")
		}
		return m
	case <-time.After(patience):
		t.Fatal("no answer")
		return nil
	}
}

func TestDHCP(t *testing.T) {
	for name, nat := range map[string]*vmnet.NAT{"isolated": nil, "nat": {}} {
		t.Run(name, func(t *testing.T) {
			_, conn := network(t, vmnet.Config{NAT: nat})
			g := newGuest(t, conn, itself)
			discover, err := dhcpv4.NewDiscovery(vmnet.GuestMAC)
			if err != nil {
				t.Fatal(err)
			}
			offer := askDHCP(t, g, discover)
			request, err := dhcpv4.NewRequestFromOffer(offer)
			if err != nil {
				t.Fatal(err)
			}
			for i, m := range []*dhcpv4.DHCPv4{offer, askDHCP(t, g, request)} {
				if want := []dhcpv4.MessageType{dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck}[i]; m.MessageType() != want {
					t.Errorf("the answer is %s, want %s", m.MessageType(), want)
				}
				ones, _ := m.SubnetMask().Size()
				if !m.YourIPAddr.Equal(vmnet.Guest.Addr().AsSlice()) || ones != vmnet.Guest.Bits() ||
					!m.ServerIdentifier().Equal(vmnet.Gateway.AsSlice()) || m.IPAddressLeaseTime(0) != 24*time.Hour {
					t.Errorf("it says %s", m.Summary())
				}
				if routers := len(m.Router()) + len(m.DNS()); (nat != nil) != (routers == 2) {
					t.Errorf("it names the routers %v and the resolvers %v", m.Router(), m.DNS())
				}
			}
			request.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(169, 254, 169, 77)))
			if got := askDHCP(t, g, request).MessageType(); got != dhcpv4.MessageTypeNak {
				t.Errorf("who asks for another address is answered with %s", got)
			}
		})
	}
}

func dhcpFrame(message []byte) []byte {
	frame := ipFrame(vmnet.GuestMAC, [4]byte{}, header.UDPMinimumSize+len(message))
	copy(frame, header.EthernetBroadcastAddress)
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	frame[header.EthernetMinimumSize+9] = uint8(header.UDPProtocolNumber)
	ip.SetDestinationAddress(header.IPv4Broadcast)
	udp := header.UDP(ip.Payload())
	udp.Encode(&header.UDPFields{SrcPort: 68, DstPort: 67, Length: uint16(header.UDPMinimumSize + len(message))})
	copy(udp.Payload(), message)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame
}

func FuzzDHCP(f *testing.F) {
	discover, err := dhcpv4.NewDiscovery(vmnet.GuestMAC)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(discover.ToBytes())
	request, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(vmnet.GuestMAC))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request.ToBytes())
	f.Fuzz(func(t *testing.T, message []byte) {
		answer := vmnet.AnswerDHCP(message, true)
		if answer == nil {
			return
		}
		m, err := dhcpv4.FromBytes(answer)
		if err != nil {
			t.Fatalf("the answer can't be read: %v", err)
		}
		if !m.YourIPAddr.IsUnspecified() && !m.YourIPAddr.Equal(vmnet.Guest.Addr().AsSlice()) {
			t.Errorf("it gives %s away", m.YourIPAddr)
		}
	})
}

// What is let in says that it is the guest's, and can be read to its end.
func FuzzAdmitted(f *testing.F) {
	f.Add(ipFrame(vmnet.GuestMAC, vmnet.Guest.Addr().As4(), 8))
	f.Add(udpFrame([4]byte{}, 68, 67))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < header.EthernetMinimumSize || !vmnet.Admitted(frame) {
			return
		}
		if !bytes.Equal(frame[6:12], vmnet.GuestMAC) {
			t.Error("it is another card's")
		}
		if header.Ethernet(frame).Type() == header.IPv4ProtocolNumber {
			ip := header.IPv4(frame[header.EthernetMinimumSize:])
			if source := ip.SourceAddress().As4(); source != vmnet.Guest.Addr().As4() && source != [4]byte{} {
				t.Errorf("it comes from %v", source)
			}
			_ = ip.Payload()
		}
	})
}
