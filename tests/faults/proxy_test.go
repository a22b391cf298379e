package faults

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// exchange is what both ends of a proxied connection saw: the guest sends a request with a body of 3,000
// bytes and then its end, the host answers 2,000 bytes once it has seen the headers and whatever it gets of the
// body within a moment.
type exchange struct {
	got, answer       []byte // by the host, by the guest
	hostErr, guestErr error  // nil is a plain end
	took              time.Duration
}

const (
	testHead   = "POST /x HTTP/1.1\r\nHost: h\r\n\r\n"
	testBody   = 3000
	testAnswer = 2000
)

// talk has them exchange that through a proxy with a fault, for as long as patience.
func talk(t *testing.T, fault Fault, patience time.Duration) exchange {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	proxy, err := NewProxy(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	proxy.Inject(fault)
	begun := time.Now()
	guest, err := net.Dial("tcp", proxy.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	host, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for _, conn := range []net.Conn{guest, host} {
		conn.SetDeadline(begun.Add(patience))
	}
	var e exchange
	var both sync.WaitGroup
	both.Go(func() {
		head := make([]byte, len(testHead)+1)
		n, err := io.ReadFull(host, head)
		e.got, e.hostErr = head[:n], err
		if err == nil {
			_, writeErr := host.Write(bytes.Repeat([]byte("a"), testAnswer))
			rest, err := io.ReadAll(host)
			e.got, e.hostErr = append(e.got, rest...), errors.Join(writeErr, err) // a reset is told once, to either
		}
		host.(*net.TCPConn).CloseWrite()
	})
	both.Go(func() {
		_, writeErr := guest.Write([]byte(testHead + strings.Repeat("b", testBody)))
		guest.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(guest)
		e.answer, e.guestErr = answer, errors.Join(writeErr, err)
	})
	both.Wait()
	e.took = time.Since(begun)
	if proxy.Struck() != 1 {
		t.Errorf("%v struck %d times", fault, proxy.Struck())
	}
	return e
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// What passes, passes whole and in order, and in the time that is said.
func TestHarmlessFaults(t *testing.T) {
	for fault, least := range map[Fault]time.Duration{
		{Kind: Latency, Time: 30 * time.Millisecond}:                           60 * time.Millisecond,
		{Kind: Bandwidth, Rate: 20_000}:                                        150 * time.Millisecond,
		{Kind: Slicing}:                                                        0,
		{Kind: Pause, Time: 100 * time.Millisecond}:                            100 * time.Millisecond,
		{Kind: Stall, Time: 100 * time.Millisecond}:                            100 * time.Millisecond,
		{Kind: SlowClose, Time: 100 * time.Millisecond}:                        100 * time.Millisecond,
		{Kind: Pause, Time: 100 * time.Millisecond, Moment: AmidBody, Body: 9}: 100 * time.Millisecond,
		{Kind: Pause, Time: 100 * time.Millisecond, Moment: After}:             0,
	} {
		t.Run(fault.Kind.String()+" "+fault.Moment.String(), func(t *testing.T) {
			fault.Request = "POST /x"
			e := talk(t, fault, 10*time.Second)
			if want := testHead + strings.Repeat("b", testBody); string(e.got) != want || e.hostErr != nil {
				t.Errorf("the host got %d bytes of %d, %v", len(e.got), len(want), e.hostErr)
			}
			if string(e.answer) != strings.Repeat("a", testAnswer) || e.guestErr != nil {
				t.Errorf("the guest got %d bytes of %d, %v", len(e.answer), testAnswer, e.guestErr)
			}
			if e.took < least {
				t.Errorf("it took %s, at least %s is right", e.took, least)
			}
		})
	}
}

// What doesn't, ends at the byte and in the way that is said.
func TestHarmfulFaults(t *testing.T) {
	timedOut := func(err error) bool {
		ne, ok := errors.AsType[net.Error](err)
		return ok && ne.Timeout()
	}
	plain := func(err error) bool { return err == nil || err == io.ErrUnexpectedEOF || err == io.EOF }
	for _, test := range []struct {
		kind        Kind
		moment      Moment
		got, answer int // bytes; -1 is any number, since a reset drops what is unread
		host, guest func(error) bool
	}{
		{Reset, Before, 0, 0, isReset, isReset},
		{Reset, AmidBody, -1, -1, isReset, isReset},
		{CutUp, AmidHeaders, len(testHead) / 2, 0, plain, plain},
		{CutUp, AmidBody, len(testHead) + 100, testAnswer, plain, plain},
		{CutDown, AmidAnswer, len(testHead) + testBody, amidAnswer, plain, plain},
		{CutDown, Before, len(testHead) + testBody, 0, plain, plain},
		{LoseUp, AmidBody, len(testHead) + 100, testAnswer, timedOut, func(err error) bool { return plain(err) || timedOut(err) }},
		{LoseDown, AmidAnswer, len(testHead) + testBody, amidAnswer, plain, timedOut},
		{LoseDown, BeforeAnswer, len(testHead) + testBody, 0, plain, timedOut},
	} {
		t.Run(test.kind.String()+" "+test.moment.String(), func(t *testing.T) {
			t.Parallel()
			e := talk(t, Fault{Request: "POST /x", Kind: test.kind, Moment: test.moment, Body: 100}, 3*time.Second)
			if test.got >= 0 && len(e.got) != test.got || !test.host(e.hostErr) {
				t.Errorf("the host got %d bytes and then %v, want %d", len(e.got), e.hostErr, test.got)
			}
			if test.answer >= 0 && len(e.answer) != test.answer || !test.guest(e.guestErr) {
				t.Errorf("the guest got %d bytes and then %v, want %d", len(e.answer), e.guestErr, test.answer)
			}
		})
	}
}

// A fault is for one request alone, on whatever connection and after whatever others on it.
func TestFaultsFindTheirRequest(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	proxy, err := NewProxy(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	proxy.Inject(Fault{Request: "PUT /second", Kind: Reset})
	guest, err := net.Dial("tcp", proxy.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	host, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	say := func(from, to net.Conn, text string) error {
		from.SetDeadline(time.Now().Add(5 * time.Second))
		to.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(from, text); err != nil {
			return err
		}
		_, err := io.ReadFull(to, make([]byte, len(text)))
		return err
	}
	for _, text := range []string{"PUT /first HTTP/1.1\r\n\r\n", "PUT /second in the body of the first"} {
		if err := say(guest, host, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := say(host, guest, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := say(guest, host, "PUT /second HTTP/1.1\r\n\r\n"); !isReset(err) {
		t.Errorf("the second request's end is %v", err)
	}
}
