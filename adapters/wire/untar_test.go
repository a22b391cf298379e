package wire_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// A name is kept for as long as its archive is read: it held all PAX records of its entry with it.
func TestANameOfAnArchiveHoldsNothingElse(t *testing.T) {
	const entries, beside = 50, 100 << 10
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range entries {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("ü%d", i),
			PAXRecords: map[string]string{"VENDOR.comment": strings.Repeat("x", beside)}}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var names []string
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	err := wire.DecodeArchive(&buf, func(entry domain.ArchiveEntry, _ io.Reader) error {
		names = append(names, entry.Name)
		return nil
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); err != nil || held > entries*beside/10 {
		t.Errorf("%d names hold %d bytes: %v", len(names), held, err)
	}
	runtime.KeepAlive(names)
	runtime.KeepAlive(&buf)
}

// A file with holes in the guise of another type was passed over by reading it: zeros of its own making, as many as
// it claims, which no limit and no context ends.
func TestHolesOfWhateverType(t *testing.T) {
	for _, kind := range []byte{tar.TypeReg, '\x00', tar.TypeCont, 'Z', 0x1b} {
		data := slices.Concat(paxHoles(1<<50, kind), archive("last", "x"))
		all, err := decodeArchive(bytes.NewReader(data))
		if err != nil || len(all) != 2 || all[0].Entry.Unfit != "a file with holes" || all[1].Content != "x" {
			t.Errorf("%q: %+v, %v", kind, all, err)
		}
	}
}
