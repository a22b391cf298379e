package vmimage_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// entry is one of an initramfs.
type entry struct {
	name, link, content string
	mode                cpio.FileMode
	header              cpio.Header
}

func readInitrd(t *testing.T, name string) []entry {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var entries []entry
	for archive := cpio.NewReader(unpacked); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{name: header.Name, link: header.Linkname, content: string(content), mode: header.Mode, header: *header})
	}
}

// describe is a line for each entry: type and permissions, owner, length, name.
func describe(entries []entry) string {
	var text strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&text, "%06o %d:%d %d %s", uint32(e.mode), e.header.Uid, e.header.Guid, len(e.content), e.name)
		if e.link != "" {
			fmt.Fprintf(&text, " -> %s", e.link)
		}
		text.WriteString("\n")
	}
	return text.String()
}
