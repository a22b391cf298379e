package wsshell

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"
)

// pieces is a connection that gives what it has in pieces of random sizes.
type pieces struct {
	net.Conn
	random *rand.Rand
	rest   []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 1+p.random.IntN([]int{1, 10, 200, 100_000}[p.random.IntN(4)]))], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (*pieces) SetWriteDeadline(time.Time) error { return nil }

// sentFrame is a frame that is written by hand: its payload may be of any length.
func sentFrame(first byte, payload []byte, masked bool) []byte {
	return putHead(append(make([]byte, headRoom), payload...), first&^finalBit, masked)
}

// Whatever pieces frames come in: whole messages come out of next, pings and pongs are told, and what is left
// gets to the library, to the byte, and in order.
func FuzzFramesAreSorted(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed, seed%2 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, guest bool) {
		random := rand.New(rand.NewPCG(seed, 1))
		const most = 70_000
		var sent []byte
		var want, got []string // what comes out, in order
		for range random.IntN(20) {
			opcode := []byte{0, 1, opcodeBinary, opcodeBinary, opcodeClose, opcodePing, opcodePong}[random.IntN(7)]
			payload := make([]byte, random.IntN(maxControl+1))
			if opcode < opcodeClose && random.IntN(2) == 0 {
				payload = make([]byte, []int{125, 126, 65535, 65536, most, most + 1}[random.IntN(6)])
			}
			for i := range payload {
				payload[i] = byte(random.Uint32())
			}
			frame := sentFrame(opcode, bytes.Clone(payload), !guest)
			sent = append(sent, frame...)
			switch {
			case opcode == opcodePing || opcode == opcodePong:
				want = append(want, string(opcode)+string(payload))
			case opcode == opcodeBinary && len(payload) <= most:
				want = append(want, "message"+string(payload))
			default:
				want = append(want, "odd"+string(frame))
			}
		}
		c := newFrameConn(&pieces{random: random, rest: sent}, guest, most)
		c.loose, c.room = 1e9, 1e9
		c.pinged = func(p []byte) { got = append(got, string(rune(opcodePing))+string(p)) }
		c.ponged = func(p []byte) { got = append(got, string(rune(opcodePong))+string(p)) }
		for {
			b, err := c.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if b != nil {
				got = append(got, "message"+string(b.buf[b.at:b.end]))
				putBlock(b)
				continue
			}
			var odd []byte
			for first := true; first || c.passing > 0; first = false {
				piece := make([]byte, 1+random.IntN(5000))
				n, err := c.Read(piece)
				if err != nil {
					t.Fatal(err)
				}
				odd = append(odd, piece[:n]...)
			}
			got = append(got, "odd"+string(odd))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d came out, and not as the %d that went in", len(got), len(want))
		}
	})
}

// A frame that is cut short is no message.
func TestACutFrameIsNoMessage(t *testing.T) {
	frame := sentFrame(opcodeBinary, []byte("hello"), true)
	for cut := range frame {
		c := newFrameConn(&pieces{random: rand.New(rand.NewPCG(1, 1)), rest: frame[:cut]}, false, 100)
		if b, err := c.next(); b != nil || err == nil {
			t.Errorf("%d bytes of it: %v, %v", cut, b, err)
		}
	}
}

// Pings and pongs that RFC 6455 doesn't allow are told from those that it does.
func TestControlsThatCannotBe(t *testing.T) {
	fine := sentFrame(opcodePing, []byte("hello"), true)
	for name, frame := range map[string][]byte{
		"fragmented": append([]byte{opcodePing}, fine[1:]...),
		"reserved":   append([]byte{0xc0 | opcodePing}, fine[1:]...),
		"too long":   sentFrame(opcodePing, make([]byte, maxControl+1), true),
	} {
		c := newFrameConn(&pieces{random: rand.New(rand.NewPCG(1, 1)), rest: frame}, false, 100)
		c.pinged = func([]byte) { t.Errorf("%s: it was told", name) }
		c.ponged = c.pinged
		if _, err := c.next(); err != errControl {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A guest masks all that it sends, and a host nothing: whatever the frame, next says so.
func TestMasksThatCannotBe(t *testing.T) {
	for _, guest := range []bool{false, true} {
		for _, opcode := range []byte{0, 1, opcodeBinary, opcodeClose, opcodePing, opcodePong} {
			frame := sentFrame(opcode, []byte("hello"), guest)
			c := newFrameConn(&pieces{random: rand.New(rand.NewPCG(1, 1)), rest: frame}, guest, 100)
			if b, err := c.next(); b != nil || err != errMask {
				t.Errorf("opcode %d at a guest's end %t: %v, %v", opcode, guest, b, err)
			}
		}
	}
}
