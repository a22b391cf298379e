package httpserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
)

const (
	// answerTimeout is how long a guest may take to take an answer off a connection that is detached.
	answerTimeout = 40 * time.Second
	// lingerTime and lingerBytes are how long, and for how many bytes of what the guest still sends, a
	// connection outlives its last answer, which a reset would take from the guest otherwise: RFC 9112,
	// section 9.6.
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
	// maxEmpty is how many bytes of empty lines may come before a request.
	maxEmpty = 4
)

// service is one call of Serve.
type service struct {
	server *http.Server
	door   *door
	gate   *gate
	life   context.Context // ends with it
}

// detached is a connection that net/http has let go of, for a while: a wire.Detached. net/http's own way of
// holding one costs 24 KiB (its buffers, two goroutines), and it copies each body through this process. The
// requests are parsed by net/http all the same, which gets the connection back for the next one.
type detached struct {
	service *service
	conn    net.Conn // as the listener accepted it
	early   []byte   // was read before anybody asked for it
	byte    [1]byte
	woken   chan struct{} // room for one
	over    bool          // Resume or Close was called

	header http.Header
	answer []byte // not yet written out; nil before WriteHeader
	wrote  bool   // the answer's head has been made
	err    error  // of writing
}

// detach takes the connection from net/http, which has read the request's headers, and no body yet.
func (s *service) detach(conn net.Conn, w http.ResponseWriter) (wire.Detached, error) {
	if !s.gate.enter() {
		return nil, errEnded
	}
	s.door.hold(conn)
	inner, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.door.letGo(conn)
		s.gate.leave()
		return nil, err
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered()) // it is there
	early = bytes.Clone(early)
	if r, ok := inner.(*returned); ok {
		early = append(early, r.early...)
	}
	return &detached{service: s, conn: conn, early: early, woken: make(chan struct{}, 1)}, nil
}

// Await implements wire.Detached.
func (d *detached) Await() error {
	if len(d.early) == 0 {
		n, err := d.conn.Read(d.byte[:])
		if timeout, ok := errors.AsType[net.Error](err); n == 0 && (!ok || !timeout.Timeout()) {
			return err
		}
		// It was woken, which is all that sets a deadline (not every connection wraps os.ErrDeadlineExceeded then:
		// gVisor's don't), or this is of the next request. Its answer has to wait for that of this one.
		d.early = d.byte[:n]
	}
	select {
	case <-d.woken:
		return nil
	case <-d.service.life.Done():
		return context.Cause(d.service.life)
	}
}

var longAgo = time.Unix(1, 0)

// Wake implements wire.Detached.
func (d *detached) Wake() {
	_ = d.conn.SetReadDeadline(longAgo) // of a connection that is closed there is nothing to wake
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// HungUp implements wire.Detached.
func (d *detached) HungUp() bool {
	hungUp := wire.HungUpFunc(d.conn)
	return hungUp != nil && hungUp()
}

// Claim implements wire.Detached.
func (d *detached) Claim() (release func()) { return d.service.door.claimOf(d.conn)() }

// Read implements wire.Detached.
func (d *detached) Read(p []byte) (int, error) {
	if len(d.early) > 0 {
		n := copy(p, d.early)
		d.early = d.early[n:]
		return n, nil
	}
	return d.conn.Read(p)
}

// Unread implements wire.Detached.
func (d *detached) Unread(p []byte) {
	if len(p) > 0 {
		d.early = append(bytes.Clone(p), d.early...)
	}
}

// Context implements wire.Detached.
func (d *detached) Context() context.Context { return d.service.life }

// MoveTo implements wire.Detached. On Linux a file takes the bytes off a socket in the kernel.
func (d *detached) MoveTo(w io.ReaderFrom, most int64) (int64, error) {
	from := io.Reader(d.conn)
	if len(d.early) > 0 {
		most = min(most, int64(len(d.early)))
		from = d
	} else if !hasSocket(d.conn) || runtime.GOOS != "linux" {
		return 0, errors.ErrUnsupported // it would be copied in small pieces
	}
	n, err := w.ReadFrom(&io.LimitedReader{R: from, N: most})
	if err == nil && n < most {
		err = io.EOF
	}
	return n, err
}

func hasSocket(conn net.Conn) bool {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// SetReadDeadline implements wire.Detached.
func (d *detached) SetReadDeadline(t time.Time) error { return d.conn.SetReadDeadline(t) }

// Header implements http.ResponseWriter.
func (d *detached) Header() http.Header {
	if d.header == nil {
		d.header = make(http.Header)
	}
	return d.header
}

// WriteHeader implements http.ResponseWriter.
func (d *detached) WriteHeader(status int) {
	if d.wrote {
		return
	}
	d.wrote = true
	var head bytes.Buffer // it takes all
	head.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	_ = d.Header().Write(&head)
	head.WriteString("Date: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n") // RFC 9110, section 6.6.1
	if d.header.Get("Content-Length") == "" {
		head.WriteString("Content-Length: 0\r\n") // nobody told of more
	}
	head.WriteString("\r\n")
	d.answer = head.Bytes()
}

// Write implements http.ResponseWriter.
func (d *detached) Write(p []byte) (int, error) {
	d.WriteHeader(http.StatusOK)
	d.answer = append(d.answer, p...)
	return len(p), d.err
}

// FlushError is what http.ResponseController calls.
func (d *detached) FlushError() error {
	d.WriteHeader(http.StatusOK)
	if d.err != nil || len(d.answer) == 0 {
		return d.err
	}
	d.err = d.conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	if d.err == nil {
		_, d.err = d.conn.Write(d.answer)
	}
	if d.err == nil {
		d.err = d.conn.SetWriteDeadline(time.Time{})
	}
	d.answer = nil
	return d.err
}

// Resume implements wire.Detached.
func (d *detached) Resume() {
	if d.over {
		return
	}
	d.over = true
	switch err := d.FlushError(); {
	case err != nil:
		d.end()
	case d.header.Get("Connection") == "close":
		go d.linger()
	default:
		d.header = nil
		go d.idle()
	}
}

// Close implements wire.Detached.
func (d *detached) Close() {
	if !d.over {
		d.over = true
		d.end()
	}
}

// end closes the connection.
func (d *detached) end() {
	d.conn.Close()
	d.service.door.letGo(d.conn)
	d.service.door.changed(d.conn, http.StateClosed)
	d.service.gate.leave()
}

// linger gives the guest time to take the last answer.
func (d *detached) linger() {
	defer d.end()
	if half, ok := d.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = d.conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, d.conn, lingerBytes)
	}
}

// idle waits for the next request, and gives it to net/http.
func (d *detached) idle() {
	d.service.door.changed(d.conn, http.StateIdle)
	if d.awaitNext() != nil {
		d.end()
		return
	}
	_ = d.conn.SetReadDeadline(time.Time{}) // net/http sees what is wrong, and sets its own
	back := &returned{Conn: d.conn, early: d.early}
	listener := &oneConn{conn: back, addr: d.conn.LocalAddr()}
	d.service.door.letGo(d.conn)
	_ = d.service.server.Serve(listener) // it ends at once: there is one connection
	if listener.conn != nil {            // nobody serves any more
		d.end()
		return
	}
	d.service.gate.leave()
}

// awaitNext waits for the first byte of the next request. Empty lines before it are ignored, as RFC 9112, section 2.2,
// asks for the sake of old clients, and as net/http does, which takes that request for a connection's first one.
func (d *detached) awaitNext() error {
	err := d.conn.SetReadDeadline(time.Now().Add(IdleTimeout))
	for ignored := 0; err == nil; ignored++ {
		if len(d.early) == 0 {
			if _, err = io.ReadFull(d.conn, d.byte[:]); err != nil {
				break
			}
			d.early = d.byte[:]
		}
		if ignored == maxEmpty || d.early[0] != '\r' && d.early[0] != '\n' {
			break
		}
		d.early = d.early[1:]
	}
	return err
}

// returned is a connection that was given back to net/http.
type returned struct {
	net.Conn
	early []byte
}

func (r *returned) Read(p []byte) (int, error) {
	if len(r.early) > 0 {
		n := copy(p, r.early)
		if r.early = r.early[n:]; len(r.early) == 0 {
			r.early = nil
		}
		return n, nil
	}
	return r.Conn.Read(p)
}

// ReadFrom lets a file be sent from the kernel.
func (r *returned) ReadFrom(from io.Reader) (int64, error) { return io.Copy(r.Conn, from) }

// CloseWrite is what net/http does before it hangs up.
func (r *returned) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// accepted is a connection as its listener accepted it.
func accepted(conn net.Conn) net.Conn {
	if r, ok := conn.(*returned); ok {
		return r.Conn
	}
	return conn
}

// oneConn is a listener for one connection.
type oneConn struct {
	conn net.Conn // nil once it is accepted
	addr net.Addr
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, net.ErrClosed
	}
	conn := l.conn
	l.conn = nil
	return conn, nil
}

func (*oneConn) Close() error { return nil }

func (l *oneConn) Addr() net.Addr { return l.addr }
