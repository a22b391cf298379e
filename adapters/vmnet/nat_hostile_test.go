package vmnet_test

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/hexworker/metaservice/adapters/vmnet"
)

// safeLog is a log that many write to.
type safeLog struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *safeLog) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()), "\n")
}

// rawGuest is one that does nothing by itself.
type rawGuest struct {
	conn   net.Conn
	reader *bufio.Reader
}

func newRawGuest(conn net.Conn) rawGuest {
	conn.SetDeadline(time.Now().Add(patience))
	return rawGuest{conn, bufio.NewReader(conn)}
}

// asks asks for a connection.
func (g rawGuest) asks(to string, port uint16) {
	where := netip.MustParseAddrPort(to)
	_, _ = g.conn.Write(framed(segment(where.Addr(), header.TCPFields{SrcPort: port, DstPort: where.Port(), SeqNum: 1, Flags: synFlags}, "")))
}

// awaits is the next that comes to a port.
func (g rawGuest) awaits(t *testing.T, port uint16) header.TCPFlags {
	t.Helper()
	for {
		frame, err := readFrame(g.reader)
		if err != nil {
			t.Fatalf("nothing comes to port %d: %v", port, err)
		}
		if _, to, flags, ok := segmentOf(frame); ok && to.Port() == port {
			return flags
		}
	}
}

// A guest begins flows as fast as it sends packets. A host that didn't know its own addresses once told each of them
// in its log.
func TestAddressesThatAreNotKnownAreToldSeldom(t *testing.T) {
	const flows = 100
	w := &world{}
	nat := w.nat()
	nat.Own = func() ([]netip.Addr, error) { return nil, errors.New("none today") }
	log := new(safeLog)
	_, conn := network(t, vmnet.Config{NAT: nat, Logger: slog.New(slog.NewTextHandler(log, nil))})
	raw := newRawGuest(conn)
	for i := range flows {
		raw.asks("192.0.2.1:80", uint16(1000+i))
		if flags := raw.awaits(t, uint16(1000+i)); !flags.Contains(header.TCPFlagRst) {
			t.Fatalf("flow %d: %s", i, flags)
		}
	}
	lines := log.lines()
	if len(lines) != 8 { // the first four, the 8th, the 16th, the 32nd and the 64th
		t.Errorf("the log has %d lines for %d flows:\n%s", len(lines), flows, strings.Join(lines, "\n"))
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, "none today") || !strings.Contains(last, "time=64") {
		t.Errorf("the log ends with %q", last)
	}
}

// A guest that asks for a connection and never takes the answer once had the host hold the world's end of it for two
// minutes: the library's own patience.
func TestConnectionOutThatTheGuestNeverTakes(t *testing.T) {
	place, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	place.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	w := &world{places: map[string]string{"tcp 192.0.2.1:80": place.Addr().String()}}
	nat := w.nat()
	nat.Forwards = 1
	nat.GiveUpAfter(200 * time.Millisecond)
	_, conn := network(t, vmnet.Config{NAT: nat})
	raw := newRawGuest(conn)
	for port := uint16(1000); port < 1002; port++ { // the second one has the room of the first
		raw.asks("192.0.2.1:80", port)
		outside, err := place.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer outside.Close()
		if flags := raw.awaits(t, port); flags != header.TCPFlagSyn|header.TCPFlagAck {
			t.Errorf("connection %d: %s", port, flags)
		}
		outside.SetReadDeadline(time.Now().Add(patience))
		if _, err := outside.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Fatalf("connection %d: the host holds it: %v", port, err)
		}
		for raw.awaits(t, port)&header.TCPFlagRst == 0 { // it asks again before, and tells in the end
		}
	}
}
