package processes

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/ports"
)

// drained is an output whose command has ended, with the other end to write at.
func drained(t *testing.T, size *ports.TerminalSize) (*output, *os.File) {
	t.Helper()
	out, childs, err := openStream(size, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out.close()
		childs.Close()
	})
	return out, childs
}

// TestDrainCountsWaitingAlone: the time between reads is the reader's own, and so is that of reading
// what is there already.
func TestDrainCountsWaitingAlone(t *testing.T) {
	for _, size := range []*ports.TerminalSize{nil, {Columns: 80, Rows: 24}} {
		out, childs := drained(t, size)
		if _, err := childs.WriteString(strings.Repeat("x", 3000)); err != nil {
			t.Fatal(err)
		}
		out.patience = 400 * time.Millisecond
		out.commandEnded()
		for got := 0; got < 3000; {
			n, err := out.Read(make([]byte, 500))
			if err != nil {
				t.Fatalf("after %d bytes: %v", got, err)
			}
			got += n
			<-time.After(100 * time.Millisecond) // the reader's own time, which is what this is about
		}
		if out.patience < 200*time.Millisecond {
			t.Errorf("of the patience only %v is left", out.patience)
		}
		if n, err := out.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("then: %d, %v", n, err)
		}
	}
}

// TestDrainWaitsInAll: each byte in time must not buy another 2 s.
func TestDrainWaitsInAll(t *testing.T) {
	t.Parallel()
	out, childs := drained(t, nil)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = childs.WriteString(".")
			}
		}
	}()
	out.commandEnded()
	if n, err := io.Copy(io.Discard, out); !errors.Is(err, ports.ErrOutputCut) || n == 0 || n > 1000 {
		t.Errorf("%d bytes came, %v", n, err)
	}
	close(stop)
	<-done
}

// TestDrainEndsAFlood, after all that was there and as much again as DrainMost.
func TestDrainEndsAFlood(t *testing.T) {
	out, childs := drained(t, nil)
	done := make(chan error, 1)
	go func() {
		for chunk := make([]byte, 1<<16); ; {
			if _, err := childs.Write(chunk); err != nil {
				done <- err
				return
			}
		}
	}()
	var first [1]byte
	if _, err := io.ReadFull(out, first[:]); err != nil {
		t.Fatal(err)
	}
	out.patience = time.Hour // it is the bytes that end it
	out.commandEnded()
	n, err := io.Copy(io.Discard, out)
	if !errors.Is(err, ports.ErrOutputCut) || n < DrainMost || n > DrainMost+2*pipeSize {
		t.Errorf("%d bytes came, %v", n, err)
	}
	out.close()
	<-done // a broken pipe
}

// TestStopEndsADrain: in the middle of its waiting, and before that begins.
func TestStopEndsADrain(t *testing.T) {
	for _, stop := range []func(*output, func()){
		func(o *output, read func()) { o.stop(); read() },
		func(o *output, read func()) { o.stop(); o.commandEnded(); read() },
		func(o *output, read func()) { o.commandEnded(); go o.stop(); read() },
		func(o *output, read func()) { go func() { o.commandEnded(); o.stop() }(); read() },
	} {
		out, _ := drained(t, nil)
		out.patience = time.Hour
		stop(out, func() {
			if n, err := out.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
}

// TestDrainThatIsJustNotCut: as much as may come, and then the end, is all there was.
func TestDrainThatIsJustNotCut(t *testing.T) {
	for over, want := range map[int]error{0: io.EOF, 1: ports.ErrOutputCut} {
		out, childs := drained(t, nil)
		out.patience = time.Hour // for its bytes alone
		out.commandEnded()
		out.draining, out.room = true, DrainMost // before the first byte is there
		done := make(chan error, 1)
		go func() {
			_, err := childs.Write(make([]byte, DrainMost+over))
			done <- errors.Join(err, childs.Close())
		}()
		total := 0
		var err error
		for p := make([]byte, 1<<16); err == nil; {
			var n int
			n, err = out.Read(p)
			total += n
		}
		if wrote := <-done; err != want || total != DrainMost || wrote != nil {
			t.Errorf("of %d bytes %d came, and then %v; %v", DrainMost+over, total, err, wrote)
		}
		if _, again := out.Read(make([]byte, 1)); again != want {
			t.Errorf("and then %v", again)
		}
	}
}
