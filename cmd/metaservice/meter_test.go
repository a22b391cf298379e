package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/app/host"
)

// The bar tells of a folder whatever is known of it: in one stream, how many files and bytes have come; file by
// file, of how many files.
func TestAMeterTellsWhatIsKnown(t *testing.T) {
	var shown bytes.Buffer
	m := &meter{to: &shown, name: "out"}
	for _, step := range []struct {
		progress host.Progress
		label    string
		files    bool
	}{
		{host.Progress{Bytes: 10, Expect: -1}, "out", false},
		{host.Progress{Files: 1, Bytes: 2048, Expect: -1}, "out, 1 file", false},
		{host.Progress{Files: 70, Bytes: 4096, Expect: -1}, "out, 70 files", false},
		{host.Progress{Files: 71, Total: 90, Bytes: 5 << 20, Expect: -1}, "out, 5.0 MiB", true}, // the stream broke off
		{host.Progress{Files: 90, Total: 90, Bytes: 6 << 20, Expect: -1}, "out, 6.0 MiB", true},
	} {
		m.show(step.progress)
		if got := m.label(step.progress); got != step.label || m.files != step.files {
			t.Errorf("%+v is %q, by files: %t", step.progress, got, m.files)
		}
	}
	m.end()
	if !strings.Contains(shown.String(), "out") {
		t.Errorf("shown is %q", shown.String())
	}
	file := &meter{to: &shown, name: "file"}
	file.show(host.Progress{Bytes: 5, Expect: 10})
	if got := file.label(host.Progress{Files: 1, Bytes: 10, Expect: 10}); got != "file" {
		t.Errorf("a file is %q", got)
	}
}
