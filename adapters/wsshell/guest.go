//lint:file-ignore SA1019 The library is frozen, and named by those who use this project: see the package comment.

package wsshell

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"nhooyr.io/websocket"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// hangUp is how long a host may take to hang up once it was told the exit. A guest that hung up first might
// take its own last words with it: a connection that is closed while something unread is in it is reset.
const hangUp = 10 * time.Second

// Target is where a guest's handshake goes.
type Target struct {
	URL    string // http, and the path of the reply
	Header http.Header
	Dial   func(ctx context.Context) (net.Conn, error)
	Shell2 bool // both know domain.FeatureShell2
}

// Dial makes the handshake. ctx bounds it alone. A refusal by the host is a *domain.Error.
func Dial(ctx context.Context, target Target) (*GuestShell, error) {
	options := &websocket.DialOptions{
		HTTPHeader:      target.Header,
		CompressionMode: websocket.CompressionDisabled,
	}
	if target.Shell2 {
		options.Subprotocols = []string{Subprotocol}
	}
	var conn *frameConn
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		raw, err := target.Dial(ctx)
		if err != nil {
			return nil, err
		}
		conn = newFrameConn(raw, true, domain.Shell2Message)
		conn.plain.Store(true)
		return conn, nil
	}}
	options.HTTPClient = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ws, resp, err := websocket.Dial(ctx, target.URL, options)
	transport.CloseIdleConnections()
	if err != nil {
		return nil, refusal(resp, err)
	}
	conn.plain.Store(false)
	g := newGuestShell(ws.Subprotocol() == Subprotocol)
	g.start(ws, conn)
	g.tasks.Go(g.read)
	return g, nil
}

// refusal is what the host said in place of a handshake.
func refusal(resp *http.Response, err error) error {
	if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return err
	}
	said, readErr := io.ReadAll(resp.Body) // the library keeps 1 KiB of it
	if readErr != nil {
		return err
	}
	return wire.DecodeError(resp.StatusCode, said)
}

// GuestShell is the guest's end: a ports.GuestShell.
type GuestShell struct {
	*peer
	stdin          *inStream
	stdout, stderr *outStream
	sizes          chan ports.TerminalSize // room for one, the newest
	done           chan struct{}
	gone           chan struct{} // closed when reading has ended

	state  sync.Mutex // guards what follows
	exited bool
	err    error
}

var _ ports.GuestShell = (*GuestShell)(nil)

func newGuestShell(v2 bool) *GuestShell {
	g := &GuestShell{
		peer:  newPeer(v2),
		sizes: make(chan ports.TerminalSize, 1),
		done:  make(chan struct{}),
		gone:  make(chan struct{}),
	}
	g.stdin = g.receiving(domain.Stdin, func(want int64) int64 { return want })
	g.stdout = g.sending(domain.Stdout)
	g.stderr = g.sending(domain.Stderr)
	g.peer.control = g.control
	g.peer.ended = g.finish
	return g
}

func (g *GuestShell) read() {
	defer close(g.gone)
	g.end(g.peer.read())
}

func (g *GuestShell) control(f domain.Frame) error {
	switch f.Type {
	case domain.FrameSize:
		select {
		case <-g.sizes: // an older one that nobody has seen
		default:
		}
		g.sizes <- ports.TerminalSize{Columns: f.Columns, Rows: f.Rows} // this goroutine alone sends
	case domain.FrameAbort:
		g.finish(domain.ErrShellAborted)
		g.stdin.abort(domain.ErrShellAborted)
	}
	return nil
}

// finish notes why it is over. The first word counts, and after Exit there is none.
func (g *GuestShell) finish(err error) {
	g.state.Lock()
	defer g.state.Unlock()
	select {
	case <-g.done:
		return
	default:
	}
	if !g.exited {
		g.err = err
	}
	g.stdin.end(err)
	g.stdout.end(err)
	g.stderr.end(err)
	close(g.done) // whoever sees that sees the rest
}

// Stdin implements ports.GuestShell.
func (g *GuestShell) Stdin() io.Reader { return g.stdin }

// Stdout implements ports.GuestShell.
func (g *GuestShell) Stdout() io.WriteCloser { return g.stdout }

// Stderr implements ports.GuestShell.
func (g *GuestShell) Stderr() io.WriteCloser { return g.stderr }

// Sizes implements ports.GuestShell.
func (g *GuestShell) Sizes() <-chan ports.TerminalSize { return g.sizes }

// Done implements ports.GuestShell.
func (g *GuestShell) Done() <-chan struct{} { return g.done }

// Err implements ports.GuestShell.
func (g *GuestShell) Err() error {
	g.state.Lock()
	defer g.state.Unlock()
	return g.err
}

// Exit implements ports.GuestShell.
func (g *GuestShell) Exit(ctx context.Context, report domain.Report) error {
	g.state.Lock()
	g.exited = true
	g.state.Unlock()
	err := g.say(report)
	if err == nil {
		err = g.hangUp(ctx)
	}
	g.close(errExited)
	return err
}

var errExited = errors.New("the shell has ended")

// say tells the end of both outputs, for whoever didn't, and then how it ended.
func (g *GuestShell) say(report domain.Report) error {
	err := errors.Join(g.stdout.Close(), g.stderr.Close())
	if g.v2 && err == nil {
		err = g.sendFrame(domain.Frame{Type: domain.FrameReport, Bytes: wire.EncodeReport(report)})
	}
	if err == nil {
		err = g.sendFrame(domain.Frame{Type: domain.FrameExit, Success: report.Succeeded()})
	}
	return err
}

// hangUp sends the close frame, and waits until the host has hung up.
func (g *GuestShell) hangUp(ctx context.Context) error {
	g.readOn(hangUp)
	g.conn.hurry(time.Now().Add(hangUp))
	stop := context.AfterFunc(ctx, func() { g.end(context.Cause(ctx)) })
	defer stop()
	g.sendControl(opcodeClose, binary.BigEndian.AppendUint16(nil, uint16(websocket.StatusNormalClosure)))
	<-g.gone
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writeErr
}

// Close implements ports.GuestShell.
func (g *GuestShell) Close() error {
	g.close(fmt.Errorf("%w: it was closed", errEnded))
	return nil
}
