package wsshell

import (
	"crypto/subtle"
	"encoding/binary"
	"math"
	"math/rand/v2"
)

// The opcodes that matter here: RFC 6455, section 11.8.
const (
	opcodeContinuation = 0
	opcodeBinary       = 2
	opcodeClose        = 8
	opcodePing         = 9
	opcodePong         = 10
)

const (
	finalBit   = 0x80
	maskBit    = 0x80
	maxControl = 125 // bytes in a control frame
)

// frameHead is the header of a websocket frame, as far as it has come: RFC 6455, section 5.2.
type frameHead struct {
	buf [14]byte
	n   int
}

// take takes what belongs to the header, and returns how much that is.
func (h *frameHead) take(p []byte) (n int) {
	for n < len(p) && !h.whole() {
		h.buf[h.n] = p[n]
		h.n++
		n++
	}
	return n
}

func (h *frameHead) whole() bool { return h.n >= h.size() }

// size is how long the header is, as far as it is known.
func (h *frameHead) size() int {
	size := 2
	if h.n < size {
		return size
	}
	switch h.buf[1] &^ maskBit {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if h.masked() {
		size += 4
	}
	return size
}

// opcode is known from the first byte on.
func (h *frameHead) opcode() byte { return h.buf[0] & 0x0f }

func (h *frameHead) masked() bool { return h.buf[1]&maskBit != 0 }

// key is the mask.
func (h *frameHead) key() []byte { return h.buf[h.n-4 : h.n] }

// payload is the length of what follows.
func (h *frameHead) payload() int64 {
	switch short := h.buf[1] &^ maskBit; short {
	case 126:
		return int64(binary.BigEndian.Uint16(h.buf[2:]))
	case 127:
		return int64(min(binary.BigEndian.Uint64(h.buf[2:]), math.MaxInt64))
	default:
		return int64(short)
	}
}

// isMessage tells whether this is a whole message of bytes.
func (h *frameHead) isMessage() bool { return h.buf[0] == finalBit|opcodeBinary }

// isEmptyPiece tells whether this is a piece of a message that adds nothing to it, nor ends it.
func (h *frameHead) isEmptyPiece() bool { return h.buf[0] == opcodeContinuation && h.payload() == 0 }

// headRoom is what is left free in front of a message for its frame's header.
const headRoom = 14

// putHead makes a whole frame of what stands in buf behind headRoom, and returns it. A masked one masks its
// payload in place.
func putHead(buf []byte, opcode byte, masked bool) (frame []byte) {
	payload := buf[headRoom:]
	at := headRoom
	var bit byte
	if masked {
		bit = maskBit
		var key [4]byte
		binary.BigEndian.PutUint32(key[:], rand.Uint32())
		mask(payload, key[:])
		at -= copy(buf[at-len(key):], key[:])
	}
	switch n := len(payload); {
	case n < 126:
		at--
		buf[at] = bit | byte(n)
	case n <= math.MaxUint16:
		at -= 3
		buf[at] = bit | 126
		binary.BigEndian.PutUint16(buf[at+1:], uint16(n))
	default:
		at -= 9
		buf[at] = bit | 127
		binary.BigEndian.PutUint64(buf[at+1:], uint64(n))
	}
	at--
	buf[at] = finalBit | opcode
	return buf[at:]
}

// mask masks p in place, or unmasks it: RFC 6455, section 5.3.
func mask(p, key []byte) {
	if len(p) < 64 {
		for i := range p {
			p[i] ^= key[i%4]
		}
		return
	}
	var pattern [1 << 10]byte
	for n := copy(pattern[:], key); n < len(pattern); n *= 2 {
		copy(pattern[n:], pattern[:n])
	}
	for len(p) > 0 {
		p = p[subtle.XORBytes(p, p, pattern[:]):]
	}
}
