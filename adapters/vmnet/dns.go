package vmnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// Limits of the resolver.
const (
	dnsPort      = 53
	Questions    = 64 // that wait for an answer at once; one more is lost, and asked again
	dnsStreams   = 16 // connections at once
	maxDNS       = 4096
	maxResolvers = 3 // that are asked, one after the other
	dnsPatience  = 4 * time.Second
)

// serveDNS answers at the gateway's port 53 with what the host's own resolvers answer, as it is: a name
// that leads to the host is of no use, since the way there is closed.
func (f *nat) serveDNS() error {
	if f.Resolvers == nil {
		f.Resolvers = systemResolvers()
	}
	n := f.network
	here := tcpip.FullAddress{NIC: nic, Addr: address(Gateway), Port: dnsPort}
	questions, err := gonet.DialUDP(n.stack, &here, nil, ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	n.closeAtEnd(questions)
	streams, err := listen(n.stack, dnsPort, dnsStreams)
	if err != nil {
		return err
	}
	n.closeAtEnd(streams)
	n.crew.do(func() { f.answer(questions) })
	n.crew.do(func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return // it was closed
			}
			if !n.crew.do(func() { f.stretch(conn.(half)) }) {
				conn.Close()
			}
		}
	})
	return nil
}

// answer answers questions that come in packets, some at a time.
func (f *nat) answer(questions *gonet.UDPConn) {
	room := make(chan struct{}, Questions)
	buffer := make([]byte, maxDNS)
	for {
		size, from, err := questions.ReadFrom(buffer)
		if err != nil {
			return // it was closed
		}
		select {
		case room <- struct{}{}:
		default:
			continue
		}
		question := bytes.Clone(buffer[:size])
		if !f.network.crew.do(func() {
			defer func() { <-room }()
			if answer := f.ask(question); answer != nil {
				_, _ = questions.WriteTo(answer, from)
			}
		}) {
			return
		}
	}
}

// ask asks the resolvers in turn; nil is no answer.
func (f *nat) ask(question []byte) []byte {
	if len(question) < 12 { // a header
		return nil
	}
	for i, resolver := range f.Resolvers {
		if i == maxResolvers {
			break
		}
		if answer := f.askOne(resolver, question); answer != nil {
			return answer
		}
	}
	return nil
}

func (f *nat) askOne(resolver netip.AddrPort, question []byte) []byte {
	ctx, cancel := context.WithTimeout(f.network.crew.context, dnsPatience)
	defer cancel()
	conn, err := f.Dial(ctx, "udp", resolver.String())
	if err != nil {
		return nil
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(question); err != nil {
		return nil
	}
	answer := make([]byte, maxDNS)
	for {
		n, err := conn.Read(answer)
		if err != nil {
			return nil
		}
		if n >= 12 && binary.BigEndian.Uint16(answer) == binary.BigEndian.Uint16(question) {
			return answer[:n]
		}
	}
}

// stretch joins a connection to the first resolver that takes one.
func (f *nat) stretch(conn half) {
	for i, resolver := range f.Resolvers {
		if i == maxResolvers {
			break
		}
		ctx, cancel := context.WithTimeout(f.network.crew.context, dnsPatience)
		outside, err := f.Dial(ctx, "tcp", resolver.String())
		cancel()
		if err == nil {
			f.network.join(conn, outside)
			return
		}
	}
	conn.Close()
}

// systemResolvers are those in resolv.conf, and as there one on this host where none is named.
func systemResolvers() []netip.AddrPort {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var found []netip.AddrPort
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			found = append(found, netip.AddrPortFrom(a, dnsPort))
		}
	}
	if len(found) == 0 {
		found = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)}
	}
	return found
}
