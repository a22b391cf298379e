package wsshell_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
)

// badHost is a host that writes whatever it likes, and the guest that it does it to.
type badHost struct {
	conn  *linkEnd
	ends  *linkEnd // the guest's
	guest *wsshell.GuestShell
	ended bool // the input is
}

// host begins a shell over a link.
func host(t *testing.T, shell2 bool) *badHost {
	t.Helper()
	ends, conn := newLink()
	go func() {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			t.Error(err)
			return
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " +
			base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
		if shell2 {
			answer += "Sec-WebSocket-Protocol: " + wsshell.Subprotocol + "\r\n"
		}
		// A host may begin at once: nothing of it may be lost behind the answer.
		_, _ = conn.Write(append([]byte(answer+"\r\n"), fromHost(domain.Frame{Type: domain.FrameData, Bytes: []byte("at once ")})...))
	}()
	guest, err := wsshell.Dial(t.Context(), wsshell.Target{
		URL: "http://host/reply", Dial: func(context.Context) (net.Conn, error) { return ends, nil }, Shell2: shell2,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &badHost{conn: conn, ends: ends, guest: guest}
}

func fromHost(f domain.Frame) []byte { return frame(opBinary|unmasked, f.Append(nil)...) }

func stdin(b []byte) []byte { return fromHost(domain.Frame{Type: domain.FrameData, Bytes: b}) }

// over checks that the guest was told why it is over, and that nothing of it is left.
func (h *badHost) over(t *testing.T) error {
	t.Helper()
	<-h.guest.Done()
	err := h.guest.Err()
	if err == nil {
		t.Error("the guest isn't told why it is over")
	} else {
		readable(t, err.Error())
	}
	if _, err := h.guest.Stdout().Write([]byte("x")); err == nil {
		t.Error("its output is taken still")
	}
	if _, err := io.Copy(io.Discard, h.guest.Stdin()); (err == nil) != h.ended {
		t.Errorf("the end of its input is told as %v", err)
	}
	if err := h.guest.Close(); err != nil {
		t.Error(err)
	}
	if !h.ends.isClosed() {
		t.Error("the connection is open still")
	}
	return err
}

// The guest believes its host no more than the other way round: what can't be ends the shell, with its reason.
func TestWhatAHostCantSay(t *testing.T) {
	block := bytes.Repeat([]byte("x"), 16<<10)
	tests := map[string]struct {
		frames [][]byte
		says   string
	}{
		"a frame of 2^40 bytes":      {[][]byte{header(opBinary|unmasked, 1<<40), bytes.Repeat(block, 10)}, "it has more than"},
		"text":                       {[][]byte{frame(opText|unmasked, 'x')}, "it is text"},
		"an empty message":           {[][]byte{frame(opBinary | unmasked)}, "it is empty"},
		"a ping of 126 bytes":        {[][]byte{header(opPing|unmasked, 126)}, "a ping or a pong that can't be"},
		"a masked ping":              {[][]byte{frame(opPing, 1)}, "whose mask is wrong"},
		"masked input":               {[][]byte{frame(opBinary, 0, 0, 'x')}, "whose mask is wrong"},
		"masked input in two frames": {[][]byte{frame(opBinary|unmasked|notLast, 0, 0, 'x'), frame(opContinuation, 'y')}, "whose mask is wrong"},
		"a masked close frame":       {[][]byte{frame(opClose, 0x03, 0xe8)}, "whose mask is wrong"},
		"output":                     {[][]byte{fromHost(domain.Frame{Stream: domain.Stdout, Bytes: block})}, "data of stdout"},
		"credit for its own input":   {[][]byte{fromHost(domain.Frame{Type: domain.FrameAck, Credit: 1})}, "credit for stdin"},
		"too much credit":            {[][]byte{fromHost(domain.Frame{Type: domain.FrameAck, Stream: 1, Credit: 1<<32 - 1})}, "credit of 4294967295"},
		"input after its end":        {[][]byte{stdin(nil), stdin(block)}, "after the stream's end"},
		"a size of 3 bytes":          {[][]byte{frame(opBinary|unmasked, 3, 1, 2, 3)}, "4 bytes of type 3"},
		"an abort of 1 byte":         {[][]byte{frame(opBinary|unmasked, 4, 1)}, "2 bytes of type 4"},
		"a close frame":              {[][]byte{frame(opClose|unmasked, 0x03, 0xe8)}, "closed it with status 1000"},
		"pings without end":          {[][]byte{bytes.Repeat(frame(opPing|unmasked), 120_000)}, "floods the connection"},
		"exits without end":          {[][]byte{bytes.Repeat(frame(opBinary|unmasked, 5, 0), 60_000)}, "floods the connection"},
		"a reserved bit":             {[][]byte{{0xc2, 1, 1}}, ""},
		"more input than is granted": {[][]byte{bytes.Repeat(stdin(block), 5<<20/len(block))}, "were granted"},
	}
	for name, test := range tests {
		for _, shell2 := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", shell2), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := host(t, shell2)
					h.ended = name == "input after its end"
					go io.Copy(io.Discard, h.conn)
					began := time.Now()
					for _, f := range test.frames {
						_, _ = h.conn.Write(f) // as much as the guest takes
					}
					err := h.over(t)
					if took := time.Since(began); took > 0 || !strings.Contains(fmt.Sprint(err), test.says) {
						t.Errorf("after %s the guest is told %v, and not: %s", took, err, test.says)
					}
				})
			})
		}
	}
}

// A host that is gone, or doesn't read, is given up, so that the process can be ended: the guest doesn't hang.
func TestAHostThatIsNotThereIsGivenUp(t *testing.T) {
	for _, reading := range []bool{true, false} {
		for _, writing := range []bool{true, false} {
			t.Run(fmt.Sprintf("reading %v, guest writing %v", reading, writing), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := host(t, true)
					began := time.Now()
					if reading {
						go io.Copy(io.Discard, h.conn)
					}
					var writes sync.WaitGroup
					if writing {
						if _, err := h.conn.Write(fromHost(domain.Frame{Type: domain.FrameAck, Stream: domain.Stdout, Credit: 3 << 20})); err != nil {
							t.Error(err)
						}
						synctest.Wait()
						writes.Go(func() {
							if _, err := h.guest.Stdout().Write(make([]byte, 8<<20)); err == nil {
								t.Error("all of it was written")
							}
						})
					}
					h.over(t)
					writes.Wait()
					if took := time.Since(began); took > 45*time.Second {
						t.Errorf("it took %s", took)
					}
				})
			})
		}
	}
}

// What a host says in the same breath as the handshake's answer is the shell's.
func TestAHostMayBeginAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := host(t, true)
		go io.Copy(io.Discard, h.conn)
		for _, f := range [][]byte{stdin([]byte("and then")), frame(opPing | unmasked), stdin(nil)} {
			if _, err := h.conn.Write(f); err != nil {
				t.Error(err)
			}
		}
		got, err := io.ReadAll(h.guest.Stdin())
		if string(got) != "at once and then" || err != nil {
			t.Errorf("the input is %q, %v", got, err)
		}
		h.guest.Close()
	})
}

// Exit waits for its host to hang up, for 10 s, and no longer than its context; the host may say what it likes
// meanwhile.
func TestAHostThatDoesntHangUp(t *testing.T) {
	for name, says := range map[string][]byte{
		"nothing":               nil,
		"pings":                 frame(opPing | unmasked),
		"a frame of 2^40 bytes": header(opBinary|unmasked, 1<<40),
		"input":                 stdin([]byte("x")),
	} {
		for _, patience := range []time.Duration{time.Second, time.Minute} {
			t.Run(fmt.Sprint(name, " ", patience), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := host(t, true)
					go io.Copy(io.Discard, h.conn)
					var saying sync.WaitGroup
					saying.Go(func() {
						for says != nil {
							if _, err := h.conn.Write(says); err != nil {
								return
							}
							time.Sleep(100 * time.Millisecond)
						}
					})
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					began := time.Now()
					_ = h.guest.Exit(ctx, domain.Report{Reason: domain.ReasonExited})
					if took := time.Since(began); took > min(patience, 10*time.Second) {
						t.Errorf("it took %s", took)
					}
					if err := h.guest.Err(); err != nil && !errors.Is(err, domain.ErrShellAborted) {
						t.Errorf("after Exit: %v", err)
					}
					if !h.ends.isClosed() {
						t.Error("the connection is open still")
					}
					h.conn.Close()
					saying.Wait()
				})
			})
		}
	}
}
