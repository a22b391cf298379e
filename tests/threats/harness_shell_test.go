//go:build linux

package threats

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
)

// PourShell writes to a shell's standard input until that fails, or ends: zeros, without end, and a little
// at a time, so that what is held is what the shell holds.
func (h *Host) PourShell(n int, done *ShellDone) error {
	return h.shellCall(n, done, func(s metaservice.ShellSession) error {
		some := make([]byte, 4<<10)
		for {
			n, err := s.StdinPipe().Write(some)
			done.Bytes += int64(n)
			if err != nil {
				return err
			}
		}
	})
}

// ShellErrors is what becomes of a shell's output once it is over: its standard error, read to its end.
func (h *Host) ShellErrors(n int, done *ShellDone) error {
	return h.shellCall(n, done, func(s metaservice.ShellSession) (err error) {
		done.Bytes, err = io.Copy(io.Discard, s.StderrPipe())
		return err
	})
}

// open opens a shell, whose guest must be there.
func (h *host) open(t *testing.T, command ...string) int {
	t.Helper()
	var opened Opened
	h.call(t, "OpenShell", OpenShell{Command: command, Within: time.Minute}, &opened)
	if opened.failed() {
		t.Fatalf("no shell: %s", opened.Text)
	}
	return opened.Shell
}

// waitShell waits for a shell's end.
func (h *host) waitShell(t *testing.T, shell int) ShellDone {
	t.Helper()
	return within(t, 2*time.Minute, "the shell's end", begin[ShellDone](t, h, "WaitShell", shell))
}

// Opcodes of websocket frames: RFC 6455, section 11.8.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
	notLast        = 0x100 // on an opcode: there is more of the message
)

var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// header is a frame's, whatever may follow.
func header(opcode int, length uint64) []byte {
	first := byte(opcode) | 0x80
	if opcode&notLast != 0 {
		first &^= 0x80
	}
	b := []byte{first}
	switch {
	case length < 126:
		b = append(b, 0x80|byte(length))
	case length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), length)
	}
	return append(b, maskKey[:]...)
}

// frame is one websocket frame of a guest.
func frame(opcode int, payload ...byte) []byte {
	b := header(opcode, uint64(len(payload)))
	for i, c := range payload {
		b = append(b, c^maskKey[i%4])
	}
	return b
}

// message is a shell's message in one frame.
func message(f domain.Frame) []byte { return frame(opBinary, f.Append(nil)...) }

func output(stream domain.Stream, bytes []byte) []byte {
	return message(domain.Frame{Type: domain.FrameData, Stream: stream, Bytes: bytes})
}

func ack(stream domain.Stream, credit uint32) []byte {
	return message(domain.Frame{Type: domain.FrameAck, Stream: stream, Credit: credit})
}

func exit(success bool) []byte {
	return message(domain.Frame{Type: domain.FrameExit, Success: success})
}

// shellConn is a guest's end of a shell: bytes.
type shellConn struct {
	net.Conn
	read   *bufio.Reader
	action wire.Action
}

// hello says what the guest can.
func (r *raid) hello(boot string, features ...domain.Feature) error {
	hello := domain.Hello{Version: "1", BootID: boot, OS: "linux", Arch: "amd64", Features: features}
	body := wire.EncodeHello(hello)
	answer, err := r.ask([]byte("POST " + wire.PathHello + " HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\nContent-Type: application/json\r\n" +
		sized(int64(len(body))) + string(body)))
	if err == nil && answer.status != http.StatusOK {
		err = fmt.Errorf("a hello got %d %s", answer.status, answer.body)
	}
	return err
}

// shell polls for an exec-shell and connects. Every shell of the second version is of a guest that has said
// hello.
func (r *raid) shell() (*shellConn, error) {
	action, err := r.poll()
	if err != nil {
		return nil, err
	}
	return r.connect(action)
}

// connect answers an exec-shell.
func (r *raid) connect(action wire.Action) (*shellConn, error) {
	conn, err := r.dial()
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, upgrade(action.ID)); err != nil {
		return nil, err
	}
	s := &shellConn{Conn: conn, read: bufio.NewReader(conn), action: action}
	response, err := http.ReadResponse(s.read, nil)
	if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("a handshake got %s", response.Status)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// upgrade is a handshake.
func upgrade(id string) string {
	return "GET " + wire.PathReply + "?id=" + id + " HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n" +
		"Sec-WebSocket-Protocol: " + wsshell.Subprotocol + "\r\n\r\n"
}

// send writes frames, and returns the first failure: that the host has hung up is its good right.
func (s *shellConn) send(frames ...[]byte) error {
	for _, f := range frames {
		if _, err := s.Write(f); err != nil {
			return err
		}
	}
	return nil
}

// received is one frame of the host's.
type received struct {
	opcode  byte
	payload []byte
}

// next reads a frame.
func (s *shellConn) next() (f received, err error) {
	var head [2]byte
	if _, err := io.ReadFull(s.read, head[:]); err != nil {
		return f, err
	}
	length := uint64(head[1] & 0x7f)
	var long [8]byte
	switch length {
	case 126:
		_, err = io.ReadFull(s.read, long[6:])
	case 127:
		_, err = io.ReadFull(s.read, long[:])
	}
	if err != nil {
		return f, err
	}
	if length > 125 {
		length = binary.BigEndian.Uint64(long[:])
	}
	f = received{opcode: head[0] & 0x0f, payload: make([]byte, length)}
	_, err = io.ReadFull(s.read, f.payload)
	return f, err
}

// drain reads until the host hangs up, and answers its pings where it is to.
func (s *shellConn) drain(answer bool) {
	for {
		f, err := s.next()
		if err != nil {
			return
		}
		if f.opcode == opPing && answer {
			_ = s.send(frame(opPong, f.payload...))
		}
	}
}

// AddGuest is a further guest of a host, with options that those of Start don't have.
type AddGuest struct {
	Limits metaservice.Limits
	Token  metaservice.TokenMode
}

// AddGuest adds one, whose log goes to a record that checks what is in it, and tells its address.
func (h *Host) AddGuest(add AddGuest, address *string) error {
	outcome := make(chan metaservice.Outcome, 1)
	service, err := metaservice.NewWithError([]string{"true"}, map[string]string{"SECRET": "hunter2"}, nil, nil,
		&metaservice.Environment{Logger: slog.New(strictLog{})},
		metaservice.WithLimits(add.Limits), metaservice.WithToken(add.Token),
		metaservice.WithOutcome(func(o metaservice.Outcome) { outcome <- o }))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.services, h.outcomes = append(h.services, service), append(h.outcomes, outcome)
	*address = listener.Addr().String()
	h.running.Go(func() { service.Serve(h.life, countedListener{listener, &h.counts}) })
	return nil
}

// add adds a guest, and returns its number.
func (h *host) add(t *testing.T, guest AddGuest) int {
	t.Helper()
	var address string
	h.call(t, "AddGuest", guest, &address)
	h.guests = append(h.guests, address)
	return len(h.guests) - 1
}
