package domain_test

import (
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/hexworker/metaservice/domain"
)

// flowMachine is a stream: a sender and a receiver, and what is on its way between them, each way in order.
// The model counts for itself, in bytes since the beginning.
type flowMachine struct {
	credit domain.Credit
	window domain.Window
	most   int64

	data []int64 // messages on their way to the receiver
	acks []int64 // grants on their way to the sender

	size                              int64 // of the window
	granted, sent, received, consumed int64
	told                              int64 // granted, as far as the sender knows
	closed                            bool  // the receiver drops what comes
	largestFlight, acksSent           int64
}

func newFlowMachine(size, most int64) *flowMachine {
	return &flowMachine{
		credit: domain.NewCredit(size, most), window: domain.NewWindow(size),
		most: most, size: size, granted: size, told: size,
	}
}

func (m *flowMachine) grant(n int64) {
	if n > 0 {
		m.granted += n
		m.acks = append(m.acks, n)
		m.acksSent++
	}
}

func (m *flowMachine) send(want int64) {
	n := m.credit.Spend(want)
	if n > 0 {
		m.sent += n
		m.data = append(m.data, n)
	}
}

// sendLess takes credit for a read, and gives back what the read didn't need.
func (m *flowMachine) sendLess(want, got int64) {
	n := m.credit.Spend(want)
	got = min(got, n)
	m.credit.Refund(n - got)
	if got > 0 {
		m.sent += got
		m.data = append(m.data, got)
	}
}

func (m *flowMachine) deliver(t *rapid.T) {
	n := m.data[0]
	m.data = m.data[1:]
	if err := m.window.Receive(n); err != nil {
		t.Fatalf("what was granted is refused: %v", err)
	}
	m.received += n
	if m.closed {
		m.consume(n)
	}
}

func (m *flowMachine) acknowledge(t *rapid.T) {
	n := m.acks[0]
	m.acks = m.acks[1:]
	if err := m.credit.Grant(uint32(n)); err != nil {
		t.Fatalf("what was granted is too much: %v", err)
	}
	m.told += n
}

func (m *flowMachine) consume(n int64) {
	m.consumed += n
	m.grant(m.window.Consume(n))
}

func (m *flowMachine) grow(n int64) {
	m.size += n
	m.grant(m.window.Grow(n))
}

func (m *flowMachine) held() int64 { return m.received - m.consumed }

func (m *flowMachine) check(t *rapid.T) {
	if got := m.credit.Left(); got != m.told-m.sent {
		t.Fatalf("the sender has credit of %d, want %d", got, m.told-m.sent)
	}
	if got := m.window.Held(); got != m.held() {
		t.Fatalf("the receiver holds %d, want %d", got, m.held())
	}
	if got := m.window.Size(); got != m.size {
		t.Fatalf("the window is %d, want %d", got, m.size)
	}
	mayCome := m.granted - m.received // in flight, or granted and not sent
	owed := m.consumed + m.size - m.granted
	if mayCome < 0 || owed < 0 || mayCome+m.held()+owed != m.size {
		t.Fatalf("%d may come, %d are held, %d are owed, of a window of %d", mayCome, m.held(), owed, m.size)
	}
	if owed*4 >= m.size {
		t.Fatalf("%d of %d are owed, and were not granted", owed, m.size)
	}
	m.largestFlight = max(m.largestFlight, m.sent-m.consumed)
	if m.largestFlight > m.size {
		t.Fatalf("%d were in flight or held at once, the window is %d", m.largestFlight, m.size)
	}
}

// settle delivers all that is on its way, reads all that came, and looks for a lost wake-up.
func (m *flowMachine) settle(t *rapid.T) {
	for len(m.data)+len(m.acks) > 0 || m.held() > 0 {
		for len(m.data) > 0 {
			m.deliver(t)
		}
		if held := m.held(); held > 0 {
			m.consume(held)
		}
		for len(m.acks) > 0 {
			m.acknowledge(t)
		}
		m.check(t)
	}
	if left := m.credit.Left(); left*4 < 3*m.size || left == 0 {
		t.Fatalf("all is read, and the sender has %d of %d", left, m.size)
	}
}

// Never more in flight than granted, no byte of the window lost or made, never a lost wake-up: whatever
// either side does, and however late the other learns of it.
func TestFlowControl(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.SampledFrom([]int64{1, 3, 64, domain.ShellWindow, domain.ShellAhead, domain.Shell2Window}).Draw(t, "most")
		m := newFlowMachine(rapid.Int64Range(1, min(most, domain.ShellWindow)).Draw(t, "size"), most)
		amount := rapid.Int64Range(1, most)
		t.Repeat(map[string]func(*rapid.T){
			"send":      func(t *rapid.T) { m.send(amount.Draw(t, "bytes")) },
			"send less": func(t *rapid.T) { m.sendLess(amount.Draw(t, "bytes"), rapid.Int64Range(0, most).Draw(t, "read")) },
			"deliver": func(t *rapid.T) {
				if len(m.data) > 0 {
					m.deliver(t)
				}
			},
			"acknowledge": func(t *rapid.T) {
				if len(m.acks) > 0 {
					m.acknowledge(t)
				}
			},
			"read": func(t *rapid.T) {
				if held := m.held(); held > 0 {
					m.consume(rapid.Int64Range(1, held).Draw(t, "bytes"))
				}
			},
			"grow": func(t *rapid.T) {
				if m.size < m.most {
					m.grow(rapid.Int64Range(1, m.most-m.size).Draw(t, "by"))
				}
			},
			"close": func(*rapid.T) {
				if held := m.held(); held > 0 {
					m.consume(held)
				}
				m.closed = true
			},
			"settle": m.settle,
			"":       m.check,
		})
		m.settle(t)
	})
}

// A sender that sends what it was never granted is found out at the first byte too many, and what it sent
// is not taken.
func TestOverSending(t *testing.T) {
	w := domain.NewWindow(100)
	if err := w.Receive(60); err != nil {
		t.Fatal(err)
	}
	if err := w.Receive(41); !errors.Is(err, domain.ErrFlow) {
		t.Errorf("101 of 100: %v", err)
	}
	if w.Held() != 60 {
		t.Errorf("%d bytes are held, want 60", w.Held())
	}
	if err := w.Receive(40); err != nil {
		t.Errorf("100 of 100: %v", err)
	}
	if grant := w.Consume(24); grant != 0 {
		t.Errorf("24 of 100 were granted again at once: %d", grant)
	}
	if err := w.Receive(1); !errors.Is(err, domain.ErrFlow) {
		t.Errorf("what was read, and not granted again, was sent: %v", err)
	}
	if grant := w.Consume(1); grant != 25 {
		t.Errorf("a quarter gives %d", grant)
	}
	if err := w.Receive(25); err != nil {
		t.Error(err)
	}
}

// A receiver that grants more than there may be, be it by an overflow, is found out, and nothing is added.
func TestOverGranting(t *testing.T) {
	c := domain.NewCredit(100, 1000)
	for _, n := range []uint32{901, math.MaxUint32, math.MaxInt32 + 1} {
		if err := c.Grant(n); !errors.Is(err, domain.ErrFlow) {
			t.Errorf("%d: %v", n, err)
		}
		if c.Left() != 100 {
			t.Fatalf("%d: there are %d now", n, c.Left())
		}
	}
	if err := c.Grant(900); err != nil || c.Left() != 1000 {
		t.Errorf("up to the most: %d, %v", c.Left(), err)
	}
	if err := c.Grant(0); err != nil {
		t.Errorf("nothing: %v", err)
	}
	if got := c.Spend(2000); got != 1000 || c.Left() != 0 {
		t.Errorf("%d were spent, %d are left", got, c.Left())
	}
	if got := c.Spend(1); got != 0 {
		t.Errorf("of nothing %d were spent", got)
	}
}

// Acks are merged: a reader of single bytes costs four messages a window, not one a byte.
func TestAcksAreMerged(t *testing.T) {
	m := newFlowMachine(domain.ShellWindow, domain.ShellWindow)
	m.send(domain.ShellWindow)
	if err := m.window.Receive(domain.ShellWindow); err != nil {
		t.Fatal(err)
	}
	for range domain.ShellWindow {
		m.consume(1)
	}
	if m.acksSent != 4 {
		t.Errorf("%d acks for a window that was read byte by byte", m.acksSent)
	}
}
