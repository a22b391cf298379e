package wire_test

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// peakReader notes the most that the heap ever held while it was read.
type peakReader struct {
	r     io.Reader
	start uint64
	peak  uint64
}

func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func measured(r io.Reader) *peakReader {
	runtime.GC()
	return &peakReader{r: r, start: heap()}
}

func (p *peakReader) Read(b []byte) (int, error) {
	p.peak = max(p.peak, heap())
	return p.r.Read(b)
}

func (p *peakReader) check(t *testing.T) {
	t.Helper()
	most := int64(p.peak) - int64(p.start)
	t.Logf("it took %d KiB at its peak", most>>10)
	if most > 16<<20 {
		t.Errorf("it took %d MiB at its peak", most>>20)
	}
}

// repeat is a text many times over, without holding it.
type repeat struct {
	text string
	left int
	rest string
}

func (r *repeat) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if r.rest == "" {
			if r.left == 0 {
				if n == 0 {
					return 0, io.EOF
				}
				return n, nil
			}
			r.left--
			r.rest = r.text
		}
		c := copy(p[n:], r.rest)
		r.rest = r.rest[c:]
		n += c
	}
	return n, nil
}

// Threat 5: 10 MiB of empty names took an ancestor's host 200 MiB.
func TestAGiantListTakesNoMemory(t *testing.T) {
	const limit = 1_000_000
	for name, body := range map[string]io.Reader{
		"names":   io.MultiReader(strings.NewReader(`{"files":[""`), &repeat{text: `,""`, left: 10 << 20 / 3}, strings.NewReader(`]}`)),
		"skipped": io.MultiReader(strings.NewReader(`{"x":[""`), &repeat{text: `,""`, left: 10 << 20 / 3}, strings.NewReader(`],"files":[]}`)),
		"fields":  io.MultiReader(strings.NewReader(`{"files":[]`), &sequenced{left: 300_000}, strings.NewReader(`}`)),
	} {
		t.Run(name, func(t *testing.T) {
			r := measured(body)
			n := 0
			_, err := wire.DecodeFiles(r, func(string) error {
				if n++; n > limit {
					return &domain.LimitError{Limit: "ListEntries", Max: limit, Unit: "names"}
				}
				return nil
			})
			r.check(t)
			_, limited := errors.AsType[*domain.LimitError](err)
			if limited != (name == "names") || err != nil && !limited {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// sequenced is fields that are all different: a parser that looks for repeats remembers each.
type sequenced struct {
	left int
	rest string
}

func (s *sequenced) Read(p []byte) (int, error) {
	if s.rest == "" {
		if s.left == 0 {
			return 0, io.EOF
		}
		s.left--
		s.rest = fmt.Sprintf(`,"a field of its own %d":%d`, s.left, s.left)
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Threat 7: a million real names in 57 MiB. What is kept is what the names hold, and no more.
func TestAMillionNames(t *testing.T) {
	const count = 1_000_000
	name := `,"/home/user/project/node_modules/some-package/lib/index.js"` // 57 MiB in all
	body := io.MultiReader(strings.NewReader(`{"files":["/first"`), &repeat{text: name, left: count - 1}, strings.NewReader(`],"notFound":false}`))
	r := measured(body)
	n, bytes := 0, 0
	notFound, err := wire.DecodeFiles(r, func(name string) error {
		n++
		bytes += len(name)
		return nil
	})
	r.check(t)
	if err != nil || notFound || n != count {
		t.Errorf("%d names of %d bytes, %t, %v", n, bytes, notFound, err)
	}
}
