package guestfiles_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/guestfiles"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestContract(t *testing.T) {
	contract.Files(t, func(t *testing.T, base string) ports.Files { return open(t, base) })
}

func open(t testing.TB, base string) *guestfiles.Files {
	t.Helper()
	files, err := guestfiles.New(base)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestBaseMustBeAbsolute(t *testing.T) {
	for _, base := range []string{"", ".", "a/b"} {
		if _, err := guestfiles.New(base); !errors.Is(err, guestfiles.ErrInvalidBase) || !strings.Contains(err.Error(), "absolute") {
			t.Errorf("%q: %v", base, err)
		}
	}
}

// What isn't a file is named, since the host only hears that it wasn't found.
func TestErrorsTellTheKind(t *testing.T) {
	_, err := open(t, t.TempDir()).Open(".")
	if err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("opening a folder: %v", err)
	}
}

// A file of the kernel's claims a size that it hasn't: it would look like one that shrank.
func TestKernelFilesHaveNoSize(t *testing.T) {
	for _, path := range []string{"/sys/kernel/profiling", "/sys/kernel/fscaps", "/proc/version"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		file, err := open(t, "/").Open(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(file)
		file.Close()
		if file.Size() != 0 || len(content) == 0 || err != nil {
			t.Errorf("%s: size %d, content %q, %v; want the size 0 and some content", path, file.Size(), content, err)
		}
	}
}

// A folder's names must not be held in memory, however many they are.
func TestWalkHoldsLittle(t *testing.T) {
	const files = 20_000
	folder := t.TempDir()
	for i := range files {
		file, err := os.Create(filepath.Join(folder, fmt.Sprintf("%0100d", i)))
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	sequence, err := open(t, folder).Walk(context.Background(), folder)
	if err != nil {
		t.Fatal(err)
	}
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	for _, err := range sequence {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == files*9/10 {
			runtime.GC()
			runtime.ReadMemStats(&during)
		}
	}
	held := int64(during.HeapAlloc) - int64(before.HeapAlloc)
	if n != files || held > 1<<20 {
		t.Errorf("%d names, %d bytes held at the ninth tenth of them; want %d and less than 1 MiB", n, held, files)
	}
}

func BenchmarkWalk(b *testing.B) {
	const files = 20_000
	folder := b.TempDir()
	for i := range files {
		file, err := os.Create(filepath.Join(folder, fmt.Sprint(i)))
		if err != nil {
			b.Fatal(err)
		}
		file.Close()
	}
	f := open(b, folder)
	for b.Loop() {
		sequence, err := f.Walk(context.Background(), folder)
		if err != nil {
			b.Fatal(err)
		}
		for range sequence {
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/name")
}
