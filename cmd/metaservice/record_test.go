package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pipe takes so many writes, and then is closed.
type pipe struct {
	bytes.Buffer
	writes int
}

var errClosed = errors.New("broken pipe")

func (p *pipe) Write(b []byte) (int, error) {
	if p.writes--; p.writes < 0 {
		return 0, errClosed
	}
	return p.Buffer.Write(b)
}

func newTestRecord(t *testing.T, out *pipe, path string) (r *record, said *bytes.Buffer) {
	t.Helper()
	said = new(bytes.Buffer)
	r, err := newRecord(out, path, newWords(said, false))
	if err != nil {
		t.Fatal(err)
	}
	return r, said
}

func TestStandardOutputIsTheRecord(t *testing.T) {
	out := &pipe{writes: 1}
	r, _ := newTestRecord(t, out, "")
	if n, err := r.Write([]byte("one\n")); n != 4 || err != nil || isClosed(r.failed) {
		t.Errorf("the first write: %d, %v", n, err)
	}
	if _, err := r.Write([]byte("two\n")); !errors.Is(err, errClosed) || !isClosed(r.failed) {
		t.Errorf("the second write: %v", err)
	}
	if err := r.close(); !errors.Is(err, errClosed) || !strings.Contains(err.Error(), "standard output") {
		t.Errorf("the record's end: %v", err)
	}
}

func TestFileIsTheRecordWhereThereIsOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("what an older run left, longer than the new log\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := &pipe{writes: 1}
	r, said := newTestRecord(t, out, path)
	for _, text := range []string{"one\n", "two\n", "three\n"} {
		if n, err := r.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	if err := r.close(); err != nil || isClosed(r.failed) {
		t.Errorf("the record failed: %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "one\ntwo\nthree\n" || out.String() != "one\n" {
		t.Errorf("the file holds %q, standard output got %q", text, out.String())
	}
	if strings.Count(said.String(), "the log goes on in the file of --log: broken pipe") != 1 {
		t.Errorf("it says %q", said)
	}
}

func TestDiskThatIsFull(t *testing.T) {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Logf("no %s on this system, which is what this test writes to", full)
		return
	}
	out := &pipe{writes: 1}
	r, _ := newTestRecord(t, out, full)
	if _, err := r.Write([]byte("one\n")); err == nil || !isClosed(r.failed) || out.String() != "one\n" {
		t.Errorf("the write: %v, and standard output got %q", err, out.String())
	}
	if err := r.close(); err == nil || !strings.Contains(err.Error(), "--log can't be written any more") {
		t.Errorf("the record's end: %v", err)
	}
}
