package wsshell

import (
	"io"
	"net"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

// Only what the host's caller types has the host look for an answer without sleeping: an ack, which a guest
// that floods its output gets as often as it likes, does not.
func TestNoAckIsTyped(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go io.Copy(io.Discard, other) // ends with the connection
	conn := newFrameConn(raw, false, domain.Shell2Message)
	write := func(f domain.Frame) {
		b := &block{buf: f.Append(make([]byte, headRoom))}
		conn.writeMessage(b, len(b.buf)-headRoom)
	}
	write(domain.Frame{Type: domain.FrameAck, Stream: domain.Stdout, Credit: 1})
	if conn.typed.Load() != 0 {
		t.Error("an ack is typed")
	}
	write(domain.Frame{Type: domain.FrameData, Bytes: []byte("x")})
	if conn.typed.Load() == 0 {
		t.Error("a keystroke is not typed")
	}
}
