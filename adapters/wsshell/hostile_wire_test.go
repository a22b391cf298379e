package wsshell_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// link is a connection in memory, for what happens at a moment of its own choosing, and for bubbles, in which
// real sockets don't count as blocked. What an end has written is in the other's buffer at once, as it is
// on loopback, and stays there whatever becomes of the connection.
type link struct {
	mu    sync.Mutex // guards all of it, and of its ends
	more  sync.Cond
	ways  [2]way // what either end writes
	kind  cutKind
	isCut bool
}

// way is one direction of a link.
type way struct {
	room   int // bytes that fit into the reader's buffer
	buf    []byte
	armed  bool
	passed []byte // since arm
	limit  int    // of passed, where the link is cut; negative is never
	closed bool   // by the writer
	gone   bool   // the reader is
}

// cutKind is how a connection ends.
type cutKind int

const (
	cutFIN  cutKind = iota // in order, as far as TCP can tell
	cutRST                 // with an error
	cutStop                // not at all: it falls silent
)

func (k cutKind) String() string { return [...]string{"FIN", "RST", "silence"}[k] }

type linkEnd struct {
	link         *link
	in, out      *way
	reads, wrote limit
}

// limit is a deadline.
type limit struct {
	at    time.Time
	timer *time.Timer
}

const socketRoom = 256 << 10

// newLink connects the two ends.
func newLink() (guest, host *linkEnd) {
	l := &link{}
	l.more.L = &l.mu
	for i := range l.ways {
		l.ways[i] = way{room: socketRoom, limit: -1}
	}
	return &linkEnd{link: l, in: &l.ways[1], out: &l.ways[0]}, &linkEnd{link: l, in: &l.ways[0], out: &l.ways[1]}
}

// arm has the link cut once so many more bytes have passed out of this end; negative is never.
func (e *linkEnd) arm(after int, kind cutKind) {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	e.out.armed, e.out.passed, e.out.limit = true, nil, after
	if after >= 0 {
		e.link.kind = kind
	}
	e.link.isCut = e.link.isCut || after == 0
	e.link.more.Broadcast()
}

// arrived is what has come out of this end since arm.
func (e *linkEnd) arrived() []byte {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	return e.out.passed
}

func (e *linkEnd) isClosed() bool {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	return e.out.closed
}

func (e *linkEnd) Read(p []byte) (int, error) {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case e.out.closed:
			return 0, net.ErrClosed
		case e.reads.over():
			return 0, os.ErrDeadlineExceeded
		case len(e.in.buf) > 0:
			n := copy(p, e.in.buf)
			if e.in.buf = e.in.buf[n:]; len(e.in.buf) == 0 {
				e.in.buf = nil
			}
			l.more.Broadcast()
			return n, nil
		case l.isCut && l.kind == cutRST:
			return 0, syscall.ECONNRESET
		case l.isCut && l.kind == cutFIN, !l.isCut && e.in.closed:
			return 0, io.EOF
		}
		l.more.Wait()
	}
}

func (e *linkEnd) Write(p []byte) (n int, err error) {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		room := min(len(p), e.out.room-len(e.out.buf))
		switch {
		case e.out.closed:
			return n, net.ErrClosed
		case e.wrote.over():
			return n, os.ErrDeadlineExceeded
		case l.isCut && l.kind != cutStop, !l.isCut && e.out.gone:
			return n, syscall.EPIPE
		case l.isCut, room <= 0:
			l.more.Wait()
			continue
		}
		if left := e.out.limit - len(e.out.passed); e.out.limit >= 0 && room >= left {
			room, l.isCut = left, true
		}
		e.out.buf = append(e.out.buf, p[:room]...)
		if e.out.armed {
			e.out.passed = append(e.out.passed, p[:room]...)
		}
		n += room
		p = p[room:]
		l.more.Broadcast()
	}
	return n, nil
}

func (e *linkEnd) Close() error {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	e.out.closed, e.in.gone, e.in.buf = true, true, nil
	e.reads.set(e.link, time.Time{})
	e.wrote.set(e.link, time.Time{})
	e.link.more.Broadcast()
	return nil
}

func (d *limit) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *limit) set(l *link, at time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.at = at; !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.more.Broadcast()
		})
	}
	l.more.Broadcast()
}

func (e *linkEnd) SetReadDeadline(at time.Time) error {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	e.reads.set(e.link, at)
	return nil
}

func (e *linkEnd) SetWriteDeadline(at time.Time) error {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	e.wrote.set(e.link, at)
	return nil
}

func (e *linkEnd) SetDeadline(at time.Time) error {
	return errors.Join(e.SetReadDeadline(at), e.SetWriteDeadline(at))
}

func (*linkEnd) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "link", Net: "unix"} }
func (*linkEnd) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "link", Net: "unix"} }

// hijacked is a response whose connection is there already. What the handshake answers goes to answer.
type hijacked struct {
	conn   net.Conn
	header http.Header
	answer io.Writer
}

func (h *hijacked) Header() http.Header         { return h.header }
func (h *hijacked) Write(p []byte) (int, error) { return h.answer.Write(p) }
func (h *hijacked) WriteHeader(status int) {
	head := strings.Builder{}
	_ = h.header.Write(&head)
	_, _ = io.WriteString(h.answer, "HTTP/1.1 101 "+http.StatusText(status)+"\r\n"+head.String()+"\r\n")
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// handshake is a guest's request.
func handshake(v2 bool) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/engine/v1/reply?id=1", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "AAECAwQFBgcICQoLDA0ODw==")
	if v2 {
		r.Header.Set("Sec-WebSocket-Protocol", wsshell.Subprotocol)
	}
	return r
}

// accept makes the host's end on a connection whose handshake nobody wants to see.
func accept(t testing.TB, conn net.Conn, features domain.Features, terms ports.ShellTerms) *wsshell.HostShell {
	t.Helper()
	if terms.Memory == nil {
		terms.Memory = plenty{}
	}
	w := &hijacked{conn: conn, header: http.Header{}, answer: io.Discard}
	host, err := wsshell.Accept(w, handshake(features.Has(domain.FeatureShell2)), features, terms)
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// Opcodes of websocket frames: RFC 6455, section 11.8.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
	notLast        = 0x100 // on an opcode: there is more of the message
	unmasked       = 0x200 // on an opcode: as a host sends it
)

var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// header is a frame's, whatever may follow.
func header(opcode int, length int64) []byte {
	first, masked := byte(opcode)|0x80, byte(0x80)
	if opcode&notLast != 0 {
		first &^= 0x80
	}
	if opcode&unmasked != 0 {
		masked = 0
	}
	b := []byte{first}
	switch {
	case length < 126:
		b = append(b, masked|byte(length))
	case length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), uint64(length))
	}
	if masked != 0 {
		b = append(b, maskKey[:]...)
	}
	return b
}

// frame is one websocket frame.
func frame(opcode int, payload ...byte) []byte {
	b := header(opcode, int64(len(payload)))
	for i, c := range payload {
		if opcode&unmasked == 0 {
			c ^= maskKey[i%4]
		}
		b = append(b, c)
	}
	return b
}

// message is a shell's message in one frame of a guest.
func message(f domain.Frame) []byte { return frame(opBinary, f.Append(nil)...) }

func output(stream domain.Stream, bytes []byte) []byte {
	return message(domain.Frame{Type: domain.FrameData, Stream: stream, Bytes: bytes})
}

func ack(stream domain.Stream, credit uint32) []byte {
	return message(domain.Frame{Type: domain.FrameAck, Stream: stream, Credit: credit})
}

func exit(success bool) []byte {
	return message(domain.Frame{Type: domain.FrameExit, Success: success})
}

func closing(status uint16) []byte {
	return frame(opClose, binary.BigEndian.AppendUint16(nil, status)...)
}

// received is one frame.
type received struct {
	opcode  byte
	last    bool
	payload []byte
}

// readFrame reads a whole frame.
func readFrame(r io.Reader) (f received, err error) {
	var head [14]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return f, err
	}
	f.opcode, f.last = head[0]&0x0f, head[0]&0x80 != 0
	length := uint64(head[1] & 0x7f)
	switch length {
	case 126:
		_, err = io.ReadFull(r, head[2:4])
		length = uint64(binary.BigEndian.Uint16(head[2:4]))
	case 127:
		_, err = io.ReadFull(r, head[2:10])
		length = binary.BigEndian.Uint64(head[2:10])
	}
	var key [4]byte
	if err == nil && head[1]&0x80 != 0 {
		_, err = io.ReadFull(r, key[:])
	}
	if err != nil {
		return f, err
	}
	f.payload = make([]byte, length)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return f, err
	}
	for i := range f.payload {
		f.payload[i] ^= key[i%4]
	}
	return f, nil
}

// attacker is a guest that writes whatever it likes, and the host that it does it to.
type attacker struct {
	t      testing.TB
	conn   net.Conn
	theirs *linkEnd // the host's end
	host   *wsshell.HostShell
	served chan struct{} // closed when Serve has returned
}

// attack begins a shell over a link. It must be over when the test ends.
func attack(t testing.TB, features domain.Features, spec domain.ShellSpec) *attacker {
	t.Helper()
	return attackWith(t, features, ports.ShellTerms{Spec: spec})
}

func attackWith(t testing.TB, features domain.Features, terms ports.ShellTerms) *attacker {
	t.Helper()
	ours, theirs := newLink()
	a := &attacker{t: t, conn: ours, theirs: theirs, served: make(chan struct{})}
	a.host = accept(t, theirs, features, terms)
	go func() {
		defer close(a.served)
		a.host.Serve(t.Context())
	}()
	t.Cleanup(func() { ours.Close() })
	return a
}

// sends writes frames; that the host has hung up by then is its good right.
func (a *attacker) sends(frames ...[]byte) (err error) {
	for _, f := range frames {
		if _, err = a.conn.Write(f); err != nil {
			return err
		}
	}
	return nil
}

// reads reads what the host says until it hangs up, answers pings where it is asked to, and returns the
// frames.
func (a *attacker) reads(answer bool) <-chan []received {
	all := make(chan []received, 1)
	go func() {
		var frames []received
		for {
			f, err := readFrame(a.conn)
			if err != nil {
				all <- frames
				return
			}
			if f.opcode == opPing && answer {
				_ = a.sends(frame(opPong, f.payload...))
			}
			frames = append(frames, f)
		}
	}()
	return all
}

// over waits for the end, and returns what the caller of the shell is told of it: an error that names its
// cause in words.
func (a *attacker) over() error {
	a.t.Helper()
	<-a.served
	if !a.theirs.isClosed() {
		a.t.Error("the connection is open still")
	}
	result, err := a.host.Result(a.t.Context())
	success, waitErr := a.host.Wait()
	if success || result.Success || !errors.Is(err, domain.ErrNonFatalInternalError) || !errors.Is(waitErr, domain.ErrNonFatalInternalError) {
		a.t.Errorf("the result is %+v, %v; %v, %v", result, err, success, waitErr)
	}
	for name, stream := range map[string]io.Reader{"stdout": a.host.StdoutPipe(), "stderr": a.host.StderrPipe()} {
		if _, err := io.Copy(io.Discard, stream); err != nil && !errors.Is(err, domain.ErrNonFatalInternalError) {
			a.t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.host.StdinPipe().Write([]byte("x")); err == nil {
		a.t.Error("its input is taken still")
	}
	if err != nil {
		readable(a.t, err.Error())
	}
	return err
}

// readable checks that a message can be shown on a terminal.
func readable(t testing.TB, text string) {
	t.Helper()
	if len(text) > 2048 || strings.ContainsFunc(text, func(c rune) bool { return c == unicode.ReplacementChar || !unicode.IsPrint(c) }) {
		t.Errorf("the error is %q", text)
	}
}
