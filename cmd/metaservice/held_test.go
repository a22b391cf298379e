package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestLogIsHeldBackUntilItIsReleased(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	out := &pipe{writes: 100}
	r, _ := newTestRecord(t, out, "")
	r.hold()
	for _, text := range []string{"one\n", "two\n"} {
		if n, err := r.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	if out.Len() > 0 {
		t.Errorf("before its release there is %q", out)
	}
	r.release()
	if _, err := r.Write([]byte("three\n")); err != nil {
		t.Error(err)
	}
	if err := r.close(); err != nil || out.String() != "one\ntwo\nthree\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}

func TestNothingHeldBackNeedsNoFile(t *testing.T) {
	t.Setenv("TMPDIR", "/nowhere")
	out := &pipe{writes: 1}
	r, _ := newTestRecord(t, out, "")
	r.hold()
	r.release()
	if _, err := r.Write([]byte("one\n")); err != nil || out.String() != "one\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}

func TestHeldLogThatNobodyReadsAnyMore(t *testing.T) {
	r, _ := newTestRecord(t, &pipe{}, "")
	r.out = struct{ io.Writer }{r.out} // and nothing that bytes.Buffer has beside
	r.hold()
	r.Write([]byte("one\n"))
	r.release()
	if err := r.close(); !errors.Is(err, errClosed) || !isClosed(r.failed) {
		t.Error(err)
	}
}

func TestLogThatCannotBeHeldBack(t *testing.T) {
	t.Setenv("TMPDIR", "/nowhere")
	r, _ := newTestRecord(t, &pipe{}, "")
	r.hold()
	if _, err := r.Write([]byte("one\n")); err == nil || !strings.Contains(err.Error(), "can't be held back") {
		t.Error(err)
	}
	r.release()
	if err := r.close(); err == nil {
		t.Error("the record is whole")
	}
}

func TestLinesOnATerminalThatIsRaw(t *testing.T) {
	var to bytes.Buffer
	o := newOutlet(&to, newInterrupts())
	o.raw.Store(true)
	if n, err := o.Write([]byte("a\nb\n")); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	o.raw.Store(false)
	o.Write([]byte("c\n"))
	if to.String() != "a\r\nb\r\nc\n" {
		t.Errorf("%q", to.String())
	}
}
