package domain_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

// frames are messages as they go over the wire, each with what it means: docs/protocol.md.
var frames = map[string]struct {
	message string
	frame   domain.Frame
}{
	"stdin":               {"\x00\x00ls\n", domain.Frame{Stream: domain.Stdin, Bytes: []byte("ls\n")}},
	"stdout":              {"\x00\x01\x00", domain.Frame{Stream: domain.Stdout, Bytes: []byte{0}}},
	"stderr":              {"\x00\x02no", domain.Frame{Stream: domain.Stderr, Bytes: []byte("no")}},
	"stdin's end":         {"\x00\x00", domain.Frame{Stream: domain.Stdin, Bytes: []byte{}}},
	"stderr's end":        {"\x00\x02", domain.Frame{Stream: domain.Stderr, Bytes: []byte{}}},
	"credit":              {"\x01\x02\x00\x01\x02\x03", domain.Frame{Type: domain.FrameAck, Stream: domain.Stderr, Credit: 0x010203}},
	"no credit":           {"\x01\x00\x00\x00\x00\x00", domain.Frame{Type: domain.FrameAck}},
	"all the credit":      {"\x01\x01\xff\xff\xff\xff", domain.Frame{Type: domain.FrameAck, Stream: domain.Stdout, Credit: 1<<32 - 1}},
	"a size":              {"\x03\x00\x84\x00\x32", domain.Frame{Type: domain.FrameSize, Columns: 132, Rows: 50}},
	"the largest size":    {"\x03\xff\xff\xff\xff", domain.Frame{Type: domain.FrameSize, Columns: 65535, Rows: 65535}},
	"abort":               {"\x04", domain.Frame{Type: domain.FrameAbort}},
	"success":             {"\x05\x00", domain.Frame{Type: domain.FrameExit, Success: true}},
	"failure":             {"\x05\x01", domain.Frame{Type: domain.FrameExit}},
	"a report":            {"\x06{}", domain.Frame{Type: domain.FrameReport, Bytes: []byte("{}")}},
	"a report of nothing": {"\x06", domain.Frame{Type: domain.FrameReport, Bytes: []byte{}}},
}

func TestFrames(t *testing.T) {
	for name, test := range frames {
		got, err := domain.ParseFrame([]byte(test.message))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.frame, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !got.Known() {
			t.Errorf("%s: type %d is not known", name, got.Type)
		}
		if message := test.frame.Append([]byte("before")); string(message) != "before"+test.message {
			t.Errorf("%s: appended it is %q, want %q", name, message, test.message)
		}
	}
}

// Of each type every other length is refused, and of what has a stream every stream that there isn't.
func TestFramesThatCantBe(t *testing.T) {
	lengths := map[domain.FrameType]func(int) bool{
		domain.FrameData:   func(n int) bool { return n >= 2 },
		domain.FrameAck:    func(n int) bool { return n == 6 },
		domain.FrameSize:   func(n int) bool { return n == 5 },
		domain.FrameAbort:  func(n int) bool { return n == 1 },
		domain.FrameExit:   func(n int) bool { return n == 2 },
		domain.FrameReport: func(n int) bool { return n >= 1 },
	}
	for kind := range 256 {
		for n := 1; n < 20; n++ {
			message := make([]byte, n)
			message[0] = byte(kind)
			fits, known := lengths[domain.FrameType(kind)]
			f, err := domain.ParseFrame(message)
			if known && !fits(n) {
				if !errors.Is(err, domain.ErrInvalidFrame) {
					t.Errorf("type %d in %d bytes: %v", kind, n, err)
				}
				continue
			}
			if err != nil || f.Known() != known || f.Type != domain.FrameType(kind) {
				t.Errorf("type %d in %d bytes: %+v, known %v, %v", kind, n, f, f.Known(), err)
			}
		}
	}
	for stream := domain.Streams; stream < 256; stream++ {
		for _, message := range []string{"\x00\x00data", "\x00\x00", "\x01\x00\x00\x00\x00\x01"} {
			changed := []byte(message)
			changed[1] = byte(stream)
			if _, err := domain.ParseFrame(changed); !errors.Is(err, domain.ErrInvalidFrame) || !strings.Contains(err.Error(), "stream ") {
				t.Errorf("%q: %v", changed, err)
			}
		}
	}
	for name, message := range map[string]string{"nothing": "", "an exit that is neither": "\x05\x02"} {
		if f, err := domain.ParseFrame([]byte(message)); !errors.Is(err, domain.ErrInvalidFrame) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

// A message of a type that is not known is passed over, whatever is in it: nothing of it is taken.
func TestFramesOfNewerTypes(t *testing.T) {
	for _, kind := range []byte{2, 7, 255} {
		f, err := domain.ParseFrame([]byte{kind, 9, 9, 9})
		if diff := cmp.Diff(domain.Frame{Type: domain.FrameType(kind)}, f); diff != "" || err != nil {
			t.Errorf("type %d: %v\n%s", kind, err, diff)
		}
	}
}

// ParseFrame copies nothing: at gigabytes a second it would tell.
func TestParseFrameAllocatesNothing(t *testing.T) {
	message := append([]byte{0, 1}, make([]byte, domain.Shell2Block)...)
	buf := make([]byte, 0, len(message))
	if n := testing.AllocsPerRun(100, func() {
		f, err := domain.ParseFrame(message)
		if err != nil || &f.Bytes[0] != &message[2] {
			t.Fatal("the bytes were copied", err)
		}
		buf = f.Append(buf[:0])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestStreamNames(t *testing.T) {
	for stream, want := range map[domain.Stream]string{
		domain.Stdin: "stdin", domain.Stdout: "stdout", domain.Stderr: "stderr", 3: "stream 3", 255: "stream 255",
	} {
		if got := stream.String(); got != want {
			t.Errorf("stream %d is %q", uint8(stream), got)
		}
	}
}

// FuzzFrame: parsing and appending are inverses, both ways, for all that can be parsed at all.
func FuzzFrame(f *testing.F) {
	for _, test := range frames {
		f.Add([]byte(test.message))
	}
	for _, message := range []string{"", "\x00", "\x00\x03", "\x01\x01", "\x02\x01data", "\x03\x00\x50", "\x04\x00", "\x05", "\x05\x02", "\x07later"} {
		f.Add([]byte(message))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		before := bytes.Clone(message)
		parsed, err := domain.ParseFrame(message)
		if !bytes.Equal(message, before) {
			t.Fatal("the message was changed")
		}
		if err != nil {
			if !errors.Is(err, domain.ErrInvalidFrame) || parsed.Bytes != nil {
				t.Fatalf("%+v, %v", parsed, err)
			}
			return
		}
		again := parsed.Append(nil)
		if parsed.Known() && !bytes.Equal(again, message) {
			t.Fatalf("%q became %q", message, again)
		}
		if !parsed.Known() && !bytes.Equal(again, message[:1]) {
			t.Fatalf("of an unknown %q came %q", message, again)
		}
		back, err := domain.ParseFrame(again)
		if diff := cmp.Diff(parsed, back); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}
