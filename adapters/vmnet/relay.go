package vmnet

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// half is a connection whose directions end one by one.
type half interface {
	net.Conn
	CloseWrite() error
}

// join copies between two connections and closes them: when both directions have ended, when one has broken, when
// no byte has gone either way for so long, or when the network ends. So neither end makes the host hold them for
// nothing, one that has ended its own direction and waits for the other one's end either. But for the first case both
// ends are reset: a close would look as if all had been said.
func (n *Network) join(inside half, outside net.Conn, patience time.Duration) {
	stop := func() {
		reset(outside)
		reset(inside)
	}
	defer context.AfterFunc(n.crew.context, stop)()
	idle := time.AfterFunc(patience, stop)
	defer idle.Stop()
	moved := func() bool { return idle.Reset(patience) }
	copied := make(chan struct{})
	go func() { // ends with its connections, before join does
		defer close(copied)
		send(outside, inside, moved)
	}()
	send(inside, outside, moved)
	<-copied
	outside.Close()
	inside.Close()
}

// reset closes a connection so that its peer knows it for broken.
func reset(c net.Conn) {
	switch c := c.(type) {
	case interface{ reset() }:
		c.reset()
		return
	case interface{ SetLinger(sec int) error }:
		_ = c.SetLinger(0)
	}
	c.Close()
}

// send copies one direction, and tells of each step. Where it breaks, the other one has no use any more.
func send(to, from net.Conn, moved func() bool) {
	if err := copyTelling(to, from, moved); err != nil {
		reset(to)
		reset(from)
		return
	}
	if h, ok := to.(half); ok {
		_ = h.CloseWrite()
	} else {
		to.Close()
	}
}

// errIdle is the end of what nothing was heard of for too long.
var errIdle = errors.New("no byte came for too long")

// copyTelling copies until the end, which is no error, and tells of bytes that came, and again when they
// have gone.
func copyTelling(to io.Writer, from io.Reader, moved func() bool) error {
	buffer := make([]byte, copyBuffer)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !moved() {
				return errIdle
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
			if !moved() {
				return errIdle
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// relay passes packets between two connections until none has come for so long, or the network ends.
func (n *Network) relay(inside, outside net.Conn, patience time.Duration) {
	stop := func() {
		outside.Close()
		inside.Close()
	}
	defer context.AfterFunc(n.crew.context, stop)()
	idle := time.AfterFunc(patience, stop)
	defer idle.Stop()
	moved := func() bool { return idle.Reset(patience) }
	passed := make(chan struct{})
	go func() { // ends with its connections, before relay does
		defer close(passed)
		pass(inside, outside, moved)
		stop() // nobody was there, says the world: the guest's next packet begins anew
	}()
	pass(outside, inside, moved)
	stop()
	<-passed
}

// pass passes packets in one direction. A packet that can't be sent is lost, as packets may be.
func pass(to, from net.Conn, moved func() bool) {
	packet := make([]byte, maxDatagram)
	for {
		n, err := from.Read(packet)
		if err != nil || !moved() {
			return
		}
		_, _ = to.Write(packet[:n])
	}
}
