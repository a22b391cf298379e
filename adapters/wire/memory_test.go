package wire_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"slices"
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

// Threat 9: package tar holds a header of a megabyte, and what it is made into. No file needs one.
func TestAHostileArchiveTakesNoMemory(t *testing.T) {
	var records strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&records, "10 %05x=\n", i)
	}
	text := func(kind byte, size int) []byte {
		return slices.Concat(header("x", kind, int64(size), nil), []byte(records.String()[:size]), make([]byte, 512-size%512))
	}
	holes := func(blocks int) []byte {
		more := make([]byte, 512) // which goes on, and says nothing
		more[504] = 1
		first := header("x", tar.TypeGNUSparse, 0, func(block []byte) {
			copy(block[257:], "ustar  \x00")
			block[482] = 1
		})
		return slices.Concat(first, bytes.Repeat(more, blocks), make([]byte, 512))
	}
	entry := header("a", tar.TypeReg, 0, nil)
	const times = 30
	for name, test := range map[string]struct {
		one  []byte
		fine bool
	}{
		"records":             {slices.Concat(text(tar.TypeXHeader, 120_000), entry), true},
		"long names":          {slices.Concat(text(tar.TypeGNULongName, 120_000), entry), true},
		"holes":               {holes(240), true},
		"more records":        {slices.Concat(text(tar.TypeXHeader, 132_000), entry), false},
		"longer names":        {slices.Concat(text(tar.TypeGNULongName, 900_000), entry), false},
		"a flood of headers":  {text(tar.TypeXHeader, 1000), false},
		"a flood of long":     {text(tar.TypeGNULongLink, 120_000), false},
		"more holes":          {holes(1000), false},
		"holes, and a header": {slices.Concat(holes(200), text(tar.TypeXHeader, 120_000), entry), true},
	} {
		t.Run(name, func(t *testing.T) {
			r := measured(io.MultiReader(&repeat{text: string(test.one), left: times * (1 + 130_000/len(test.one))}, bytes.NewReader(archive())))
			n := 0
			err := wire.DecodeArchive(r, func(domain.ArchiveEntry, io.Reader) error {
				n++
				runtime.GC() // what is held counts, not how far the collector lags on a busy machine
				return nil
			})
			r.check(t)
			if test.fine && (err != nil || n < times) || !test.fine && !errors.Is(err, domain.ErrInvalidReply) {
				t.Errorf("%d entries came, and then %v", n, err)
			}
		})
	}
}
