package vmnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
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
	dnsIdle      = 10 * time.Second // between the questions of a connection
	dnsHeader    = 12               // bytes
)

// serveDNS answers at the gateway's port 53 with what the host's own resolvers answer, as it is: a name
// that leads to the host is of no use, since the way there is closed. A resolver may be on the host itself:
// nothing but questions gets to it.
func (f *nat) serveDNS() error {
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
			if !n.crew.do(func() { f.converse(conn) }) {
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
	if !isQuestion(question) {
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
	conn, err := f.dialResolver(ctx, "udp", resolver.String())
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
		if n >= dnsHeader && binary.BigEndian.Uint16(answer) == binary.BigEndian.Uint16(question) {
			return answer[:n]
		}
	}
}

// converse answers a connection's questions, one after the other: RFC 7766, section 6.2.1.
func (f *nat) converse(conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(f.network.crew.context, func() { conn.Close() })()
	for {
		_ = conn.SetDeadline(time.Now().Add(dnsIdle))
		question, err := readDNS(conn, maxDNS)
		if err != nil || !isQuestion(question) {
			return
		}
		answer := f.askLong(question)
		_ = conn.SetDeadline(time.Now().Add(dnsIdle)) // resolvers may have taken longer
		if answer == nil || writeDNS(conn, answer) != nil {
			return
		}
	}
}

// askLong asks the resolvers in turn for an answer that may be long; nil is none.
func (f *nat) askLong(question []byte) []byte {
	for i, resolver := range f.Resolvers {
		if i == maxResolvers {
			break
		}
		if answer, err := f.askStream(resolver, question); err == nil {
			return answer
		}
	}
	return nil
}

func (f *nat) askStream(resolver netip.AddrPort, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(f.network.crew.context, dnsPatience)
	defer cancel()
	conn, err := f.dialResolver(ctx, "tcp", resolver.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := writeDNS(conn, question); err != nil {
		return nil, err
	}
	answer, err := readDNS(conn, math.MaxUint16)
	if err == nil && (len(answer) < dnsHeader || binary.BigEndian.Uint16(answer) != binary.BigEndian.Uint16(question)) {
		err = errOtherAnswer
	}
	return answer, err
}

var (
	errOtherAnswer = errors.New("the resolver answers another question")
	errLongDNS     = errors.New("a question that is too long")
)

// readDNS reads a message that stands behind its length: RFC 1035, section 4.2.2.
func readDNS(r io.Reader, most int) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > most {
		return nil, errLongDNS
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}

func writeDNS(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// isQuestion tells whether a message asks for a name of the Internet's, and for nothing else. The host's resolver
// is often on its loopback, and takes what comes from there for its own administrator's: transfers of zones,
// updates, and what it tells of itself in another class (RFC 4892).
func isQuestion(message []byte) bool {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || header.Response || header.OpCode != 0 {
		return false
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 || questions[0].Class != dnsmessage.ClassINET {
		return false
	}
	if kind := questions[0].Type; kind == typeIXFR || kind == dnsmessage.TypeAXFR {
		return false
	}
	answers, errAnswers := p.AllAnswers()
	authorities, errAuthorities := p.AllAuthorities()
	more, errMore := p.AllAdditionals()
	if errors.Join(errAnswers, errAuthorities, errMore) != nil || len(answers)+len(authorities) > 0 {
		return false
	}
	return len(more) == 0 || len(more) == 1 && more[0].Header.Type == dnsmessage.TypeOPT
}

// typeIXFR is an incremental transfer of a zone: RFC 1995.
const typeIXFR dnsmessage.Type = 251

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
