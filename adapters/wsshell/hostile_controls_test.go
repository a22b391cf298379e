package wsshell

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
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

// noise is what payloads are made of. To make bytes, and to copy them about, is nearly all that such a test does:
// a piece of these, from anywhere, shows as well as others what is lost, doubled or out of place.
var noise = func() []byte {
	b := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // which never fails
	return b
}()

// sorted is what becomes of a frame: what it is told as, and with which bytes.
type sorted struct {
	as    string
	bytes []byte
}

// Whatever pieces frames come in: whole messages come out of next, pings and pongs are told, and what is left
// gets to the library, to the byte, and in order.
func FuzzFramesAreSorted(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed, seed%2 == 0)
	}
	const most = 70_000
	sent, odd := make([]byte, 0, 20*(headRoom+most+1)), make([]byte, 0, headRoom+most+1)
	piece := make([]byte, 5000)
	f.Fuzz(func(t *testing.T, seed uint64, guest bool) {
		random := rand.New(rand.NewPCG(seed, 1))
		sent = sent[:0]
		var want []sorted // what comes out, in order
		for range random.IntN(20) {
			opcode := []byte{0, 1, opcodeBinary, opcodeBinary, opcodeClose, opcodePing, opcodePong}[random.IntN(7)]
			size := random.IntN(maxControl + 1)
			if opcode < opcodeClose && random.IntN(2) == 0 {
				size = []int{125, 126, 65535, 65536, most, most + 1}[random.IntN(6)]
			}
			at := random.IntN(len(noise) - size + 1)
			payload, begin := noise[at:at+size], len(sent)
			sent = append(append(sent, make([]byte, headRoom)...), payload...)
			frame := putHead(sent[begin:], opcode, !guest)
			sent = sent[:begin+copy(sent[begin:], frame)] // the header may be shorter than its room
			switch {
			case opcode == opcodePing:
				want = append(want, sorted{"ping", payload})
			case opcode == opcodePong:
				want = append(want, sorted{"pong", payload})
			case opcode == opcodeBinary && len(payload) <= most:
				want = append(want, sorted{"message", payload})
			default:
				want = append(want, sorted{"odd", sent[begin:]})
			}
		}
		came := func(as string, got []byte) {
			if len(want) == 0 || want[0].as != as || !bytes.Equal(want[0].bytes, got) {
				t.Fatalf("%d bytes came out as %s, with %d frames to come", len(got), as, len(want))
			}
			want = want[1:]
		}
		c := newFrameConn(&pieces{random: random, rest: sent}, guest, most)
		c.loose, c.room = 1e9, 1e9
		c.pinged = func(p []byte) { came("ping", p) }
		c.ponged = func(p []byte) { came("pong", p) }
		for {
			b, err := c.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if b != nil {
				came("message", b.buf[b.at:b.end])
				putBlock(b)
				continue
			}
			odd = odd[:0]
			for first := true; first || c.passing > 0; first = false {
				n, err := c.Read(piece[:1+random.IntN(len(piece))])
				if err != nil {
					t.Fatal(err)
				}
				odd = append(odd, piece[:n]...)
			}
			came("odd", odd)
		}
		if len(want) > 0 {
			t.Errorf("%d frames never came out", len(want))
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
