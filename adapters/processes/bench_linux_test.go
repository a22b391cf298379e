package processes_test

import (
	"errors"
	"fmt"
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

func benchmarkShells(b *testing.B, spec ports.ProcessSpec, in, out int64) {
	for _, mode := range []processes.Mode{processes.ModeCgroup, processes.ModeShim} {
		b.Run(mode.String(), func(b *testing.B) {
			s, err := processes.New(processes.Config{Mode: mode, Shim: shim()})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(in + out)
			for b.Loop() {
				if err := runShell(s, spec, in, out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// runShell writes zeros to a shell, and reads both its outputs, 128 KiB at a time.
func runShell(s *processes.Starter, spec ports.ProcessSpec, in, out int64) error {
	p, err := s.StartShell(spec)
	if err != nil {
		return err
	}
	fed, drained := make(chan error, 1), make(chan error, 1)
	go func() {
		var err error
		for left, chunk := in, make([]byte, 128<<10); left > 0 && err == nil; left -= int64(len(chunk)) {
			_, err = p.Stdin().Write(chunk[:min(left, int64(len(chunk)))])
		}
		fed <- errors.Join(err, p.Stdin().Close())
	}()
	go func() {
		_, err := io.Copy(io.Discard, p.ErrOutput())
		drained <- err
	}()
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{p.Output()}, make([]byte, 128<<10))
	if err == nil && n != out {
		err = fmt.Errorf("%d bytes came of %d", n, out)
	}
	return errors.Join(err, <-fed, <-drained, p.Close())
}

func BenchmarkShellStartToClose(b *testing.B) {
	benchmarkShells(b, ports.ProcessSpec{Command: []string{"/bin/true"}}, 0, 0)
}

func BenchmarkShellOutput(b *testing.B) {
	benchmarkShells(b, ports.ProcessSpec{Command: []string{"/usr/bin/head", "-c", "268435456", "/dev/zero"}}, 0, 256<<20)
}

func BenchmarkShellInput(b *testing.B) {
	benchmarkShells(b, ports.ProcessSpec{Command: []string{"/bin/dd", "of=/dev/null", "bs=128K", "status=none"}}, 256<<20, 0)
}

func BenchmarkShellEcho(b *testing.B) {
	benchmarkShells(b, ports.ProcessSpec{Command: []string{"/bin/cat"}}, 256<<20, 256<<20)
}
