package wsshell

import (
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
