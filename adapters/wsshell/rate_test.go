package wsshell_test

import (
	"io"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	n := int(min(int64(len(p)), z.left))
	z.left -= int64(n)
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// BenchmarkOutput is a GiB out of the guest, from a reader that costs nothing.
func BenchmarkOutput(b *testing.B) {
	for name, features := range versions {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p := tcpPair(b, features, domain.ShellSpec{})
				const size = 1 << 30
				b.SetBytes(size)
				go func() {
					io.Copy(p.guest.Stdout(), &zeros{size})
					p.guest.Stdout().Close()
				}()
				n, err := io.Copy(io.Discard, p.host.StdoutPipe())
				if n != size || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
