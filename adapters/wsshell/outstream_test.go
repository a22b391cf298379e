package wsshell

import (
	"errors"
	"io"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

// A writer that has its credit, and waits for its turn while somebody closes the stream, must not send behind
// the stream's end: the peer would break the shell off.
func TestNothingIsSentBehindAStreamsEnd(t *testing.T) {
	var sent []int
	s := newOutStream(domain.Stdin, domain.ShellBlock, func(_ *block, n int) error {
		sent = append(sent, n)
		return nil
	})
	if n, err := s.acquire(5); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	if err := s.Close(); err != nil { // between the writer's credit and its turn
		t.Fatal(err)
	}
	if err := s.sendBlock(getBlock(), 5); err != io.ErrClosedPipe {
		t.Errorf("the late block: %v", err)
	}
	if len(sent) != 1 || sent[0] != domain.DataHead {
		t.Errorf("sent were messages of %d bytes", sent)
	}
}

// A shell that is told to exit may have ended before the Write that told it returns.
func TestWhatIsOutBeforeTheEndWasWritten(t *testing.T) {
	var s *outStream
	s = newOutStream(domain.Stdin, domain.ShellBlock, func(*block, int) error {
		s.end(domain.ErrShellTerminated) // it has read its last line
		return nil
	})
	if n, err := io.WriteString(s, "exit 7\n"); n != 7 || err != nil {
		t.Errorf("Write: %d, %v", n, err)
	}
	for _, late := range []string{"more", ""} {
		if n, err := io.WriteString(s, late); n != 0 || !errors.Is(err, domain.ErrShellTerminated) {
			t.Errorf("a Write of %q after the end: %d, %v", late, n, err)
		}
	}
}
