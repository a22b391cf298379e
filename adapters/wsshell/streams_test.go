package wsshell_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

var versions = map[string]domain.Features{"version 1": nil, "version 2": version2}

// random is n bytes that no defect would make by chance.
func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(data)
	return data
}

// Bytes come out as they went in, on all three streams at once, in whatever sizes they are written and read.
func TestStreamsAreByteExact(t *testing.T) {
	for name, features := range versions {
		t.Run(name, func(t *testing.T) {
			p := tcpPair(t, features, domain.ShellSpec{})
			const size = 5<<20 + 12345
			var all sync.WaitGroup
			send := func(w io.WriteCloser, data []byte) {
				all.Go(func() {
					for at, n := 0, 1; at < len(data); at, n = at+n, n*2%(1<<18)+1 {
						n = min(n, len(data)-at)
						if _, err := w.Write(data[at : at+n]); err != nil {
							t.Errorf("write: %v", err)
							return
						}
					}
					if err := w.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			receive := func(what string, r io.Reader, want []byte) {
				all.Go(func() {
					got, err := io.ReadAll(r)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: %d bytes of %d, equal %v, %v", what, len(got), len(want), bytes.Equal(got, want), err)
					}
				})
			}
			in, out, errs := random(size), random(size+1), random(size+2)
			send(p.host.StdinPipe(), in)
			receive("stdin", p.guest.Stdin(), in)
			send(p.guest.Stdout(), out)
			receive("stdout", p.host.StdoutPipe(), out)
			send(p.guest.Stderr(), errs)
			receive("stderr", p.host.StderrPipe(), errs)
			all.Wait()

			report := domain.Report{ExitCode: 3, Reason: domain.ReasonExited}
			if err := p.guest.Exit(t.Context(), report); err != nil {
				t.Errorf("Exit: %v", err)
			}
			result, err := p.host.Result(t.Context())
			if err != nil || result.Success {
				t.Errorf("the result is %+v, %v", result, err)
			}
			if features != nil && (result.Report == nil || *result.Report != report) {
				t.Errorf("the report is %v", result.Report)
			}
			<-p.served
		})
	}
}
