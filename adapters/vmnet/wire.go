package vmnet

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Limits of a wire.
const (
	maxFrame    = header.EthernetMinimumSize + MTU
	maxLength   = 4096 + 65536 // of a frame that QEMU passes on, whatever the MTU (its NET_BUFSIZE)
	maxOutgoing = 4 << 20      // bytes that wait for a guest to take them; what comes then is lost, as on any network
	maxHeld     = 32 << 20     // bytes of the guest's frames that the stack holds; what comes then is lost
	frameCost   = 1 << 10      // bytes that a frame takes beside its own
	keptBuffer  = 1 << 20      // a buffer that had to grow larger is given back
	readAhead   = 256 << 10
)

// wire joins a guest's network card to the stack. The library's own switch has room for many guests, and
// trusts them: it allocates whatever a frame's length says, breaks on a frame without a header, and has
// whoever sends wait for a guest that takes nothing. There is one guest here, and nobody waits for it.
type wire struct {
	conn     net.Conn
	endpoint *tap.LinkEndpoint
	refused  atomic.Int64 // frames that were not let in
	held     atomic.Int64 // bytes that the stack holds of those that were

	mu       sync.Mutex // guards what follows
	some     *sync.Cond // that something is outgoing, or the wire closed
	outgoing []byte     // whole frames, each after its length
	closed   bool
	err      error // that it broke with
}

func newWire(conn net.Conn, endpoint *tap.LinkEndpoint) *wire {
	w := &wire{conn: conn, endpoint: endpoint}
	w.some = sync.NewCond(&w.mu)
	return w
}

// DeliverNetworkPacket implements tap.NetworkSwitch: it takes a frame of the stack's, and never waits.
func (w *wire) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, packet *stack.PacketBuffer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.outgoing)+4+packet.Size() > maxOutgoing {
		return
	}
	w.outgoing = binary.BigEndian.AppendUint32(w.outgoing, uint32(packet.Size()))
	begin := len(w.outgoing)
	for _, part := range packet.AsSlices() {
		w.outgoing = append(w.outgoing, part...)
	}
	shorten(w.outgoing[begin:])
	w.some.Signal()
}

// send writes what is outgoing, as much at a time as there is, until the wire ends.
func (w *wire) send() {
	var batch []byte
	for {
		w.mu.Lock()
		for len(w.outgoing) == 0 && !w.closed {
			w.some.Wait()
		}
		if w.closed {
			w.mu.Unlock()
			return
		}
		batch, w.outgoing = w.outgoing, batch[:0]
		w.mu.Unlock()
		if _, err := w.conn.Write(batch); err != nil {
			w.end(err)
			return
		}
		if cap(batch) > keptBuffer {
			batch = nil
		}
	}
}

// receive passes the guest's frames to the stack, those that it may send, until the wire ends.
func (w *wire) receive() { w.end(w.passFrames()) }

func (w *wire) passFrames() error {
	reader := bufio.NewReaderSize(w.conn, readAhead)
	var length [4]byte
	for {
		if _, err := io.ReadFull(reader, length[:]); err != nil {
			return err
		}
		size := int64(binary.BigEndian.Uint32(length[:]))
		if size > maxLength {
			return fmt.Errorf("a frame of %d bytes was announced, there can be %d at most", size, maxLength)
		}
		if size < header.EthernetMinimumSize || size > maxFrame {
			w.refused.Add(1)
			if _, err := reader.Discard(int(size)); err != nil {
				return err
			}
			continue
		}
		frame := buffer.NewViewSize(int(size))
		if _, err := io.ReadFull(reader, frame.AsSlice()); err != nil {
			frame.Release()
			return err
		}
		w.deliver(frame)
	}
}

// deliver gives one frame to the stack, if the guest may send such and the stack doesn't hold too many. It has
// bounds of its own, but only on the bytes in packets: those without any wait in queues that have none.
func (w *wire) deliver(frame *buffer.View) {
	if !admitted(frame.AsSlice()) {
		w.refused.Add(1)
		frame.Release()
		return
	}
	cost := int64(frame.Size() + frameCost)
	if w.held.Add(cost) > maxHeld {
		w.held.Add(-cost)
		frame.Release()
		return
	}
	protocol := header.Ethernet(frame.AsSlice()).Type()
	frame.TrimFront(header.EthernetMinimumSize)
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload:   buffer.MakeWithView(frame),
		OnRelease: func() { w.held.Add(-cost) },
	})
	defer packet.DecRef()
	w.endpoint.DeliverNetworkPacket(protocol, packet)
}

// end ends a wire, because of an error or none. That the guest's machine is gone is no error.
func (w *wire) end(err error) {
	for _, gone := range []error{io.EOF, io.ErrClosedPipe, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, gone) {
			err = nil
		}
	}
	if err != nil {
		err = fmt.Errorf("the guest's network card: %w", err)
	}
	w.mu.Lock()
	before := w.closed
	if !before {
		w.closed, w.err, w.outgoing = true, err, nil
	}
	w.mu.Unlock()
	w.some.Broadcast()
	if !before {
		_ = w.conn.Close() // there is nothing to be lost, nor to be done about it
	}
}

// why is the error that the wire ended with.
func (w *wire) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
