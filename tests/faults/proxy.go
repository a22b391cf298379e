package faults

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Proxy passes a guest's connections on to its host, byte for byte, until a fault is due.
type Proxy struct {
	listener net.Listener
	host     string
	life     context.Context // ends with Close
	end      context.CancelFunc
	all      sync.WaitGroup

	mu     sync.Mutex // guards what follows
	due    []Fault
	struck int
	passed map[*link]struct{}
}

// NewProxy listens on loopback for one guest of the host at a TCP address.
func NewProxy(host string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: listener, host: host, passed: make(map[*link]struct{})}
	p.life, p.end = context.WithCancel(context.Background())
	p.all.Go(p.serve)
	return p, nil
}

// Address is where the guest finds its host.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Inject has a fault strike the next request that it is for, once.
func (p *Proxy) Inject(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due = append(p.due, fault)
}

// Struck is how many faults have been.
func (p *Proxy) Struck() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.struck
}

// Sever resets every connection that there is.
func (p *Proxy) Sever() {
	p.mu.Lock()
	open := make([]*link, 0, len(p.passed))
	for l := range p.passed {
		open = append(open, l)
	}
	p.mu.Unlock()
	for _, l := range open {
		l.reset()
	}
}

// Close ends every connection, and returns when nothing of the proxy is left.
func (p *Proxy) Close() {
	p.listener.Close()
	p.end()
	p.Sever()
	p.all.Wait()
}

func (p *Proxy) serve() {
	for {
		guest, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() { p.pass(guest.(*net.TCPConn)) })
	}
}

// pass serves one connection to its end.
func (p *Proxy) pass(guest *net.TCPConn) {
	host, err := new(net.Dialer).DialContext(p.life, "tcp", p.host)
	if err != nil {
		guest.SetLinger(0) // as where nobody listens
		guest.Close()
		return
	}
	l := &link{proxy: p, guest: guest, host: host.(*net.TCPConn), hit: make(chan struct{}), paced: make(map[bool]time.Time)}
	p.mu.Lock()
	p.passed[l] = struct{}{}
	p.mu.Unlock()
	if p.life.Err() != nil { // Close has not seen it
		l.reset()
	}
	var down sync.WaitGroup
	down.Go(func() { l.run(l.host, l.guest, l.down) })
	l.run(l.guest, l.host, l.up)
	down.Wait()
	if l.loses(l.host) || l.loses(l.guest) {
		<-p.life.Done() // one of them is never told of an end
	}
	guest.Close()
	host.Close()
	p.mu.Lock()
	delete(p.passed, l)
	p.mu.Unlock()
}

// match takes the first fault that is due for a request which begins so.
func (p *Proxy) match(request []byte) (Fault, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, fault := range p.due {
		if bytes.HasPrefix(request, []byte(fault.Request)) {
			p.due = append(p.due[:i:i], p.due[i+1:]...)
			return fault, true
		}
	}
	return Fault{}, false
}

// link is one connection of the guest, and that to the host which stands for it.
type link struct {
	proxy       *Proxy
	guest, host *net.TCPConn
	hit         chan struct{} // closed when the fault has struck

	mu       sync.Mutex // guards what follows
	armed    *Fault
	answered bool // the host has said something since the guest last did, or nobody has said anything
	spoken   bool // the guest has said something
	body     int  // bytes that may go to the host until AmidBody strikes; it counts once the headers are through
	headers  bool // they are
	since    time.Time
	pieces   int                // that Slicing has made
	paced    map[bool]time.Time // until when what Bandwidth has let through takes, to the host and to the guest
}

var errOver = errors.New("the connection is over")

// run passes one direction on until its end.
func (l *link) run(from, to *net.TCPConn, through func(chunk []byte) error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if err := through(buf[:n]); err != nil {
				l.abandon(from)
				return
			}
		}
		if err == nil {
			continue
		}
		switch {
		case err == io.EOF:
			l.closeWrite(to)
		case !l.loses(to):
			l.reset()
		}
		return
	}
}

// loses tells whether what is for one end vanishes.
func (l *link) loses(to *net.TCPConn) bool {
	kind, hit := l.fault()
	return hit && (kind == LoseUp && to == l.host || kind == LoseDown && to == l.guest)
}

// abandon reads what comes to its end, so that closing the socket is no reset.
func (l *link) abandon(from *net.TCPConn) { io.Copy(io.Discard, from) }

// closeWrite passes the end of one direction on.
func (l *link) closeWrite(to *net.TCPConn) {
	if l.loses(to) {
		return
	}
	if kind, hit := l.fault(); hit && kind == SlowClose {
		l.wait(l.due().Time)
	}
	to.CloseWrite()
}

// reset ends both at once.
func (l *link) reset() {
	for _, conn := range []*net.TCPConn{l.guest, l.host} {
		conn.SetLinger(0)
		conn.Close()
	}
}

func (l *link) due() Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.armed
}

// fault is what has struck the link.
func (l *link) fault() (Kind, bool) {
	select {
	case <-l.hit:
		return l.due().Kind, true
	default:
		return 0, false
	}
}

// strike begins the fault.
func (l *link) strike() {
	l.mu.Lock()
	l.since = time.Now()
	l.mu.Unlock()
	l.proxy.mu.Lock()
	l.proxy.struck++
	l.proxy.mu.Unlock()
	close(l.hit)
	switch l.due().Kind {
	case Reset:
		l.reset()
	case CutUp:
		l.host.CloseWrite()
	case CutDown:
		l.guest.CloseWrite()
	}
}

// up passes on what the guest says.
func (l *link) up(chunk []byte) error {
	if before, rest, ok := l.split(chunk); ok {
		if len(before) > 0 {
			if err := l.write(l.host, before); err != nil {
				return err
			}
		}
		l.strike()
		chunk = rest
	}
	return l.write(l.host, chunk)
}

// split tells whether the fault strikes within a piece of what the guest says, and where.
func (l *link) split(chunk []byte) (before, rest []byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	begins := l.answered || !l.spoken
	l.answered, l.spoken = false, true
	if l.armed == nil {
		if !begins {
			return nil, nil, false
		}
		fault, ok := l.proxy.match(chunk)
		if !ok {
			return nil, nil, false
		}
		l.armed, l.body = &fault, fault.Body
		headers := bytes.Index(chunk, []byte("\r\n\r\n")) + 4
		if headers < 4 {
			headers = len(chunk)
		}
		switch fault.Moment {
		case Before:
			return nil, chunk, true
		case AmidHeaders:
			return chunk[:headers/2], chunk[headers/2:], true
		case AmidBody:
			l.headers = true
			return l.splitBody(chunk, headers)
		}
		return nil, nil, false
	}
	if l.headers {
		return l.splitBody(chunk, 0)
	}
	return nil, nil, false
}

// splitBody counts what of a piece is body; l.mu must be held.
func (l *link) splitBody(chunk []byte, from int) (before, rest []byte, ok bool) {
	if len(chunk)-from <= l.body {
		l.body -= len(chunk) - from
		return nil, nil, false
	}
	l.headers = false
	at := from + l.body
	return chunk[:at], chunk[at:], true
}

// amidAnswer is how much of an answer goes out before AmidAnswer strikes.
const amidAnswer = 20

// down passes on what the host says.
func (l *link) down(chunk []byte) error {
	l.mu.Lock()
	l.answered = true
	var moment Moment
	armed := l.armed != nil
	if armed {
		moment = l.armed.Moment
	}
	l.mu.Unlock()
	if _, hit := l.fault(); armed && !hit && moment >= BeforeAnswer {
		first := 0
		switch moment {
		case AmidAnswer:
			first = min(amidAnswer, len(chunk)/2)
		case After:
			first = len(chunk)
		}
		if first > 0 {
			if err := l.write(l.guest, chunk[:first]); err != nil {
				return err
			}
		}
		l.strike()
		chunk = chunk[first:]
	}
	return l.write(l.guest, chunk)
}

// write passes a piece on as the fault, if it has struck, has it.
func (l *link) write(to *net.TCPConn, chunk []byte) error {
	if len(chunk) == 0 {
		return nil
	}
	kind, hit := l.fault()
	if !hit {
		_, err := to.Write(chunk)
		return err
	}
	if l.loses(to) {
		return nil
	}
	fault := l.due()
	switch kind {
	case Latency:
		l.wait(fault.Time)
	case Bandwidth:
		return l.trickle(to, chunk, fault.Rate)
	case Slicing:
		return l.slice(to, chunk)
	case Pause, Stall:
		l.mu.Lock()
		rest := fault.Time - time.Since(l.since)
		l.mu.Unlock()
		l.wait(rest)
	case Reset:
		return errOver
	case CutUp:
		if to == l.host {
			return nil
		}
	case CutDown:
		if to == l.guest {
			return nil
		}
	}
	_, err := to.Write(chunk)
	return err
}

// trickle writes so many bytes a second, and catches up where it was late itself.
func (l *link) trickle(to *net.TCPConn, chunk []byte, rate int) error {
	const tick = 10 * time.Millisecond
	l.mu.Lock()
	at := l.paced[to == l.guest]
	if now := time.Now(); at.Before(now.Add(-time.Second)) {
		at = now
	}
	l.mu.Unlock()
	for size := max(1, rate/int(time.Second/tick)); len(chunk) > 0; {
		n := min(size, len(chunk))
		if _, err := to.Write(chunk[:n]); err != nil {
			return err
		}
		chunk = chunk[n:]
		at = at.Add(time.Second * time.Duration(n) / time.Duration(rate))
		if rest := time.Until(at); rest > 0 {
			l.wait(rest)
		}
	}
	l.mu.Lock()
	l.paced[to == l.guest] = at
	l.mu.Unlock()
	return nil
}

// slice writes the first bytes one at a time, and the rest in pieces that fit nothing.
func (l *link) slice(to *net.TCPConn, chunk []byte) error {
	for size := 1; len(chunk) > 0; {
		n := min(size, len(chunk))
		if _, err := to.Write(chunk[:n]); err != nil {
			return err
		}
		chunk = chunk[n:]
		l.mu.Lock()
		l.pieces++
		if l.pieces > 600 {
			size = 1021
		}
		l.mu.Unlock()
	}
	return nil
}

// wait lets time pass, unless the proxy ends.
func (l *link) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.proxy.life.Done():
	}
}
