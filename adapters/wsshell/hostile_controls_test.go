package wsshell

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Whatever pieces frames come in, pings and pongs are taken out, whole, and nothing else.
func FuzzControlsAreTakenOut(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed, seed%2 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, guest bool) {
		random := rand.New(rand.NewPCG(seed, 1))
		bytesOf := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			return b
		}
		var sent, want []byte
		var told, wantTold [][]byte
		closes, wantCloses := 0, 0
		for range random.IntN(20) {
			opcode := []byte{0, 1, 2, opcodeClose, opcodePing, opcodePong, opcodePing, opcodePong}[random.IntN(8)]
			size := random.IntN(maxControl + 1)
			if opcode < opcodeClose && random.IntN(2) == 0 {
				size = []int{125, 126, 65535, 65536}[random.IntN(4)]
			}
			payload := bytesOf(size)
			frame := appendControl(nil, opcode, payload, !guest)
			if size > maxControl { // its header can't say so
				frame = []byte{finalBit | opcode, 126, byte(size >> 8), byte(size)}
				if size > 65535 {
					frame = []byte{finalBit | opcode, 127, 0, 0, 0, 0, 0, 1, 0, 0}
				}
				if !guest {
					frame[1] |= maskBit
					frame = append(frame, bytesOf(4)...)
				}
				frame = append(frame, payload...)
			}
			sent = append(sent, frame...)
			switch opcode {
			case opcodePing, opcodePong:
				wantTold = append(wantTold, append([]byte{opcode}, payload...))
				continue
			case opcodeClose:
				wantCloses++
			}
			want = append(want, frame...)
		}
		c := controls{
			masked: !guest,
			ping:   func(p []byte) { told = append(told, append([]byte{opcodePing}, p...)) },
			pong:   func(p []byte) { told = append(told, append([]byte{opcodePong}, p...)) },
			closes: func() { closes++ },
		}
		var got []byte
		for len(sent) > 0 {
			n := min(len(sent), 1+random.IntN([]int{1, 10, 200, 100_000}[random.IntN(4)]))
			piece := bytes.Clone(sent[:n])
			sent = sent[n:]
			kept, err := c.pass(piece)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, piece[:kept]...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes are left, and not %d", len(got), len(want))
		}
		if len(told) != len(wantTold) || closes != wantCloses {
			t.Fatalf("%d pings and pongs, %d closes, and not %d and %d", len(told), closes, len(wantTold), wantCloses)
		}
		for i := range told {
			if !bytes.Equal(told[i], wantTold[i]) {
				t.Errorf("number %d is %x, and not %x", i, told[i], wantTold[i])
			}
		}
	})
}
