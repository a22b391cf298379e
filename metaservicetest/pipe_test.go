package metaservicetest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// Two ends that write at the same moment, and read only then, hung over net.Pipe: as where either answers
// the other's ping.
func TestAPipeHoldsWhatIsWritten(t *testing.T) {
	a, b := newPipe()
	for _, conn := range []net.Conn{a, b} {
		if n, err := conn.Write([]byte("ping")); n != 4 || err != nil {
			t.Fatal(n, err)
		}
	}
	for _, conn := range []net.Conn{a, b} {
		got := make([]byte, 10)
		if n, err := conn.Read(got); string(got[:n]) != "ping" || err != nil {
			t.Errorf("%q, %v", got[:n], err)
		}
	}
}

func TestAPipeEndsLikeASocket(t *testing.T) {
	a, b := newPipe()
	if _, err := a.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if got, err := io.ReadAll(b); string(got) != "last words" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write to who has gone: %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read after Close: %v", err)
	}
}

func TestAPipeIsBoundedAndHasDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe()
		begun := time.Now()
		took := func(what string, want time.Duration, err error) {
			t.Helper()
			if got := time.Since(begun); got != want || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v after %s, want %s", what, err, got, want)
			}
		}
		a.SetDeadline(begun.Add(time.Second))
		n, err := a.Write(make([]byte, pipeBuffer+1))
		took("a write to who doesn't read", time.Second, err)
		if n != pipeBuffer {
			t.Errorf("it holds %d bytes, not %d", n, pipeBuffer)
		}
		_, err = a.Read(make([]byte, 1))
		took("a read from who doesn't write", time.Second, err)
		a.SetDeadline(time.Time{})
		go func() { // a deadline ends what waits already
			time.Sleep(time.Second)
			a.SetReadDeadline(time.Unix(1, 0))
		}()
		_, err = a.Read(make([]byte, 1))
		took("a read that is interrupted", 2*time.Second, err)

		sent := bytes.Repeat([]byte("0123456789"), 100_000)
		go func() {
			_, _ = a.Write(sent)
			_ = a.Close()
		}()
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got[pipeBuffer:], sent) {
			t.Errorf("%d bytes came, %v", len(got), err)
		}
	})
}
