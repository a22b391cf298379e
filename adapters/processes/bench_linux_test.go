package processes_test

import (
	"io"
	"testing"

	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/ports"
)

func benchmarkModes(b *testing.B, spec ports.ProcessSpec, bytes int64) {
	for _, mode := range []processes.Mode{processes.ModeCgroup, processes.ModeShim} {
		b.Run(mode.String(), func(b *testing.B) {
			s, err := processes.New(processes.Config{Mode: mode, Shim: shim()})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(bytes)
			for b.Loop() {
				p, err := s.Start(spec)
				if err != nil {
					b.Fatal(err)
				}
				buffer := make([]byte, 128<<10)
				n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{p.Output()}, buffer)
				if err != nil || n != bytes {
					b.Fatalf("%d bytes, %v", n, err)
				}
				if err := p.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStartToClose(b *testing.B) {
	benchmarkModes(b, ports.ProcessSpec{Command: []string{"/bin/true"}}, 0)
}

func BenchmarkOutput(b *testing.B) {
	benchmarkModes(b, ports.ProcessSpec{Command: []string{"/usr/bin/head", "-c", "268435456", "/dev/zero"}}, 256<<20)
}
