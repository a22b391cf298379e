package vmnet

import (
	"errors"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Limits of a guest's connections.
const (
	// Connections to the metadata address at once; one more is reset. The server behind has a limit of
	// its own, which this one doesn't go below.
	Connections = 512
	// maxClosing is how many connections may be closing: those that the host is done with, and the guest
	// is not. One more resets the oldest.
	maxClosing = 64
	backlog    = 64 // connections that nobody has accepted yet

	receiveBuffer = 256 << 10 // bytes that one connection brought and nobody has read
	sendBuffer    = 512 << 10 // bytes that the guest hasn't acknowledged
	timeWait      = time.Second
)

// tcpOptions are the stack's, where they aren't the library's own.
func tcpOptions() []tcpip.SettableTransportProtocolOption {
	sack := tcpip.TCPSACKEnabled(true)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	return []tcpip.SettableTransportProtocolOption{
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: receiveBuffer, Max: receiveBuffer},
		&tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: sendBuffer, Max: sendBuffer},
		&sack,
		&wait,
	}
}

// listener is a net.Listener inside the network. The library's own doesn't bound what a guest can have open.
type listener struct {
	endpoint tcpip.Endpoint
	queue    *waiter.Queue
	address  *net.TCPAddr
	crowd    crowd
	closed   chan struct{}
	once     sync.Once
}

// listen listens at the gateway's address, for so many connections at once.
func listen(s *stack.Stack, port uint16, most int) (*listener, error) {
	l := &listener{
		queue:   new(waiter.Queue),
		address: &net.TCPAddr{IP: Gateway.AsSlice(), Port: int(port)},
		crowd:   crowd{most: most},
		closed:  make(chan struct{}),
	}
	endpoint, err := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, l.queue)
	if err != nil {
		return nil, l.error("listen", err)
	}
	l.endpoint = endpoint
	err = endpoint.Bind(tcpip.FullAddress{NIC: nic, Addr: address(Gateway), Port: port})
	if err == nil {
		err = endpoint.Listen(backlog)
	}
	if err != nil {
		endpoint.Close()
		return nil, l.error("listen", err)
	}
	return l, nil
}

func (l *listener) error(op string, err tcpip.Error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.address, Err: errors.New(err.String())}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.queue.EventRegister(&entry)
	defer l.queue.EventUnregister(&entry)
	for {
		select {
		case <-l.closed:
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.address, Err: net.ErrClosed}
		default:
		}
		endpoint, queue, err := l.endpoint.Accept(nil)
		if _, wait := err.(*tcpip.ErrWouldBlock); wait {
			select {
			case <-ready:
			case <-l.closed:
			}
			continue
		}
		if err != nil {
			select {
			case <-l.closed: // which is why
				continue
			default:
				return nil, l.error("accept", err)
			}
		}
		if !l.crowd.enter() {
			endpoint.Abort()
			continue
		}
		return l.crowd.conn(queue, endpoint), nil
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.endpoint.Close()
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.address }

// crowd bounds how many connections a guest has, open and closing.
type crowd struct {
	most int

	mu      sync.Mutex // guards what follows
	open    int
	closing []tcpip.Endpoint // oldest first
}

// enter makes room for one more, if there may be one.
func (c *crowd) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= c.most {
		return false
	}
	c.open++
	return true
}

// forget takes one out of which nothing is left.
func (c *crowd) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// leave takes one out that was closed. Its end may still take a while, and the guest decides how long.
func (c *crowd) leave(endpoint tcpip.Endpoint) {
	c.forget()
	c.mu.Lock()
	var still []tcpip.Endpoint
	for _, old := range append(c.closing, endpoint) {
		if state := tcp.EndpointState(old.State()); state != tcp.StateClose && state != tcp.StateError {
			still = append(still, old)
		}
	}
	var over []tcpip.Endpoint
	if n := len(still) - maxClosing; n > 0 {
		over, still = still[:n], still[n:]
	}
	c.closing = still
	c.mu.Unlock()
	for _, old := range over {
		old.Abort()
	}
}

// conn makes a connection of one that has entered. Its end leaves.
func (c *crowd) conn(queue *waiter.Queue, endpoint tcpip.Endpoint) *conn {
	return &conn{TCPConn: gonet.NewTCPConn(queue, endpoint), endpoint: endpoint, leave: sync.OnceFunc(func() { c.leave(endpoint) })}
}

// conn is a connection that was counted in.
type conn struct {
	*gonet.TCPConn
	endpoint tcpip.Endpoint
	leave    func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.TCPConn.Close()
	c.leave()
	return err
}

// reset closes it in such a way that the guest knows it for broken.
func (c *conn) reset() {
	c.endpoint.Abort()
	_ = c.Close()
}
