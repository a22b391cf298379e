package wsshell

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/hexworker/metaservice/domain"
)

// errControl is a ping or a pong that RFC 6455, section 5.5, doesn't allow.
var errControl = fmt.Errorf("%w: a ping or a pong that can't be one", domain.ErrInvalidFrame)

// controls takes pings and pongs out of what is read. The library would answer a ping on the goroutine
// that reads, behind what is being written, and where that takes 5 s it drops what has been received.
type controls struct {
	masked bool // the peer has to mask its frames
	ping   func(payload []byte)
	pong   func(payload []byte)
	closes func() // a close frame has begun

	head     frameHead
	rest     int64  // of the frame's payload
	kept     []byte // of a ping's, or a pong's
	messages int64  // whose last frame is whole
}

// pass moves what isn't taken out to the front of p, and returns how much that is.
func (c *controls) pass(p []byte) (n int, err error) {
	for len(p) > n {
		at := n
		if !c.head.whole() {
			size := c.head.take(p[at:])
			if err := c.begun(); err != nil {
				return n, err
			}
			at += size
		}
		size := int(min(int64(len(p)-at), c.rest))
		c.rest -= int64(size)
		if c.taken() {
			c.kept = append(c.kept, p[at:at+size]...)
			p = p[:n+copy(p[n:], p[at+size:])]
		} else {
			n = at + size
		}
		c.ended()
	}
	return n, nil
}

// taken tells whether the frame is taken out.
func (c *controls) taken() bool {
	opcode := c.head.opcode()
	return opcode == opcodePing || opcode == opcodePong
}

// begun looks at a header, if it is whole by now.
func (c *controls) begun() error {
	if !c.head.whole() {
		return nil
	}
	c.rest = c.head.payload()
	if c.head.opcode() == opcodeClose {
		c.closes()
	}
	if c.taken() && (c.head.buf[0] != finalBit|c.head.opcode() || c.head.masked() != c.masked || c.rest > maxControl) {
		return errControl
	}
	return nil
}

// ended hands a ping or a pong over, if the frame is whole by now.
func (c *controls) ended() {
	if !c.head.whole() || c.rest > 0 {
		return
	}
	switch {
	case c.taken():
		if c.masked {
			for i := range c.kept {
				c.kept[i] ^= c.head.key()[i%4]
			}
		}
		if c.head.opcode() == opcodePing {
			c.ping(c.kept)
		} else {
			c.pong(c.kept)
		}
	case c.head.opcode() < opcodeClose && c.head.buf[0]&finalBit != 0:
		c.messages++
	}
	c.kept = c.kept[:0]
	c.head.n = 0
}

// appendControl appends a control frame, whose payload has up to maxControl bytes.
func appendControl(b []byte, opcode byte, payload []byte, masked bool) []byte {
	if !masked {
		return append(append(b, finalBit|opcode, byte(len(payload))), payload...)
	}
	key := binary.BigEndian.AppendUint32(nil, rand.Uint32())
	b = append(append(b, finalBit|opcode, maskBit|byte(len(payload))), key...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}
