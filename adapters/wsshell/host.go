//lint:file-ignore SA1019 The library is frozen, and named by those who use this project: see the package comment.

package wsshell

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"nhooyr.io/websocket"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// abortLinger is for how long an aborted shell's guest may say that it has ended it.
	abortLinger = 6 * time.Second
	// exitLinger is for how long a guest that told its exit may take to hang up: one of version 1 doesn't.
	exitLinger = 2 * time.Second
	// lastWrite is for how long a shell that is over may still be written to.
	lastWrite = time.Second
	// idleStdin is how long the input of a guest of version 1 goes on after both outputs have ended.
	idleStdin = 2 * time.Second
)

// ErrHandshake is a request that can't become a websocket.
var ErrHandshake = errors.New("not a websocket handshake")

// CheckHandshake tells whether a request can become a websocket, before anything is used up for it: RFC
// 6455, section 4.2.1.
func CheckHandshake(r *http.Request) error {
	switch {
	case !r.ProtoAtLeast(1, 1):
		return fmt.Errorf("%w: it is %s, it must be HTTP/1.1", ErrHandshake, r.Proto)
	case !hasToken(r, "Connection", "Upgrade"), !hasToken(r, "Upgrade", "websocket"):
		return fmt.Errorf("%w: it must have the headers Connection: Upgrade and Upgrade: websocket", ErrHandshake)
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return fmt.Errorf("%w: its Sec-WebSocket-Version must be 13", ErrHandshake)
	case len(r.Header.Values("Sec-WebSocket-Key")) != 1:
		return fmt.Errorf("%w: it must have one Sec-WebSocket-Key", ErrHandshake)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Header.Get("Sec-WebSocket-Key")))
	if err != nil || len(key) != 16 {
		return fmt.Errorf("%w: its Sec-WebSocket-Key must be 16 bytes in base64", ErrHandshake)
	}
	return nil
}

func hasToken(r *http.Request, header, token string) bool {
	for _, value := range r.Header.Values(header) {
		for part := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// Accept completes a handshake that CheckHandshake has passed, with a guest that named these features. The
// connection is the shell's from then on. Whatever goes wrong, the guest has been answered.
func Accept(w http.ResponseWriter, r *http.Request, features domain.Features, terms ports.ShellTerms) (*HostShell, error) {
	options := &websocket.AcceptOptions{
		InsecureSkipVerify: true, // an origin is the API's business
		CompressionMode:    websocket.CompressionDisabled,
	}
	v2 := features.Has(domain.FeatureShell2) && hasToken(r, "Sec-WebSocket-Protocol", Subprotocol)
	if v2 {
		options.Subprotocols = []string{Subprotocol}
	}
	h := newHostShell(v2, features.Has(domain.FeatureExec), terms)
	hijack := &hijacker{ResponseWriter: w, maxMessage: h.maxMessage()}
	ws, err := websocket.Accept(hijack, r, options)
	if err != nil {
		return nil, err
	}
	h.begin(ws, hijack.conn)
	return h, nil
}

// hijacker puts a frameConn below the library, and finds a Hijacker below middleware that only unwraps.
type hijacker struct {
	http.ResponseWriter
	maxMessage int
	conn       *frameConn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = newFrameConn(conn, false, h.maxMessage)
	early, _ := rw.Reader.Peek(rw.Reader.Buffered()) // which is there
	h.conn.early = bytes.Clone(early)
	rw.Reader.Reset(h.conn)
	rw.Writer.Reset(h.conn)
	return h.conn, rw, nil
}

// HostShell is the host's end: a ports.HostShell.
type HostShell struct {
	*peer
	terms          ports.ShellTerms
	exec           bool // the guest knows all of the spec
	stdin          *outStream
	stdout, stderr *inStream
	done           chan struct{} // closed when it is known how it ended

	state   sync.Mutex // guards what follows
	result  domain.Result
	err     error
	report  *domain.Report
	outputs int // that have ended
	linger  *time.Timer
}

var _ ports.HostShell = (*HostShell)(nil)

func newHostShell(v2, exec bool, terms ports.ShellTerms) *HostShell {
	h := &HostShell{peer: newPeer(v2), terms: terms, exec: exec, done: make(chan struct{})}
	if terms.Silence > 0 {
		h.silence = terms.Silence
	}
	var room func(int64) int64
	if terms.Memory != nil {
		room = terms.Memory.Take
	}
	h.stdin = h.sending(domain.Stdin)
	h.stdout = h.receiving(domain.Stdout, room)
	h.stderr = h.receiving(domain.Stderr, room)
	h.peer.control = h.control
	h.peer.ended = h.brokeOff
	return h
}

// begin takes the connection over, and tells an old guest what a newer one was told with the action.
func (h *HostShell) begin(ws *websocket.Conn, conn *frameConn) {
	h.start(ws, conn)
	if h.terms.Spec.NoStdin {
		h.endStdin(h.exec)
	}
	if h.exec {
		return
	}
	if h.terms.Spec.TTY {
		columns, rows := h.terms.Spec.Size()
		h.ask(func(todo *pending) {
			todo.hold = true // a Size crashes an old guest whose shell failed to start: its output shows that it didn't
			todo.size = &domain.Frame{Type: domain.FrameSize, Columns: columns, Rows: rows}
		})
		h.begun = func() { h.ask(func(todo *pending) { todo.hold = false }) }
	}
}

// endStdin ends an input that is empty. A guest that knows the spec has ended it by itself, and of one that
// doesn't, a terminal's is left open: its end would end the shell.
func (h *HostShell) endStdin(known bool) {
	if known || h.terms.Spec.TTY {
		h.stdin.end(io.ErrClosedPipe)
		return
	}
	_ = h.stdin.Close() // a failure is the connection's, which tells it
}

// Serve implements ports.HostShell: it is the goroutine that reads.
func (h *HostShell) Serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { h.end(context.Cause(ctx)) })
	defer stop()
	h.close(h.read())
	h.state.Lock()
	if h.linger != nil {
		h.linger.Stop()
	}
	h.state.Unlock()
	for _, s := range []*inStream{h.stdout, h.stderr} {
		if h.terms.Memory != nil {
			s.leave(h.terms.Memory.Give)
		}
	}
}

// control takes what the guest says beside data and credit.
func (h *HostShell) control(f domain.Frame) error {
	switch f.Type {
	case domain.FrameData: // the end of an output
		h.outputEnded()
	case domain.FrameReport:
		report, err := wire.DecodeReport(f.Bytes)
		if err != nil {
			return err
		}
		h.state.Lock()
		h.report = &report
		h.state.Unlock()
	case domain.FrameExit:
		return h.exited(f.Success)
	}
	return nil // the rest goes the other way, and is counted like a message of an unknown type
}

// exited takes the guest's word. There may be more to read: it is the guest that hangs up.
func (h *HostShell) exited(success bool) error {
	h.state.Lock()
	report := h.report
	h.state.Unlock()
	if report != nil && report.Succeeded() != success {
		return fmt.Errorf("%w: an exit that contradicts its report, %s", domain.ErrInvalidFrame, report)
	}
	if h.finish(domain.Result{Success: success, Report: report}, nil) {
		h.conn.hurry(time.Now().Add(lastWrite)) // the input is of no use any more, and may be stuck
	}
	h.readOn(exitLinger)
	return nil
}

// finish settles how the shell ended. The first word counts.
func (h *HostShell) finish(result domain.Result, err error) (first bool) {
	h.state.Lock()
	defer h.state.Unlock()
	select {
	case <-h.done:
		return false
	default:
	}
	h.result, h.err = result, err
	h.stdin.end(h.overLocked())
	close(h.done)
	return true
}

// outputEnded notes the end of one of the outputs. An old guest without a terminal says nothing of its
// process's end while its input is open: once both outputs have ended, and nobody writes, the input ends.
func (h *HostShell) outputEnded() {
	h.state.Lock()
	defer h.state.Unlock()
	if h.outputs++; h.outputs < 2 || h.v2 || h.terms.Spec.TTY {
		return
	}
	sent := h.stdin.sent()
	h.linger = time.AfterFunc(idleStdin, func() {
		if now := h.stdin.sent(); now != sent {
			sent = now
			h.state.Lock()
			defer h.state.Unlock()
			h.linger.Reset(idleStdin)
			return
		}
		_ = h.stdin.Close()
	})
}

// brokeOff is told the end of the connection.
func (h *HostShell) brokeOff(cause error) {
	h.finish(domain.Result{}, fmt.Errorf("%w: the guest never said how the shell ended: %w", domain.ErrNonFatalInternalError, cause))
	ended := error(io.EOF) // the guest has said that the shell has ended, so an output that is open has, too
	if _, err := h.outcome(); err != nil {
		ended = err
	}
	h.stdout.end(ended)
	h.stderr.end(ended)
}

func (h *HostShell) outcome() (domain.Result, error) {
	h.state.Lock()
	defer h.state.Unlock()
	return h.result, h.err
}

// overLocked is what SetSize, Abort and the input say once it is over; h.state must be held.
func (h *HostShell) overLocked() error {
	if errors.Is(h.err, domain.ErrShellAborted) {
		return domain.ErrShellAborted
	}
	return domain.ErrShellTerminated
}

// usable is nil until the shell has ended.
func (h *HostShell) usable() error {
	select {
	case <-h.done:
		h.state.Lock()
		defer h.state.Unlock()
		return h.overLocked()
	default:
		return nil
	}
}

// StdinPipe implements ports.Shell. The pipe is an io.ReaderFrom, too.
func (h *HostShell) StdinPipe() io.WriteCloser { return h.stdin }

// StdoutPipe implements ports.Shell. The pipe is an io.WriterTo, too.
func (h *HostShell) StdoutPipe() io.ReadCloser { return h.stdout }

// StderrPipe implements ports.Shell. The pipe is an io.WriterTo, too.
func (h *HostShell) StderrPipe() io.ReadCloser { return h.stderr }

// SetSize implements ports.Shell.
func (h *HostShell) SetSize(columns, rows uint16) error {
	if !h.terms.Spec.TTY {
		return fmt.Errorf("%w: the shell has no terminal", domain.ErrFeatureNotSupported)
	}
	if err := h.usable(); err != nil {
		return err
	}
	h.ask(func(todo *pending) {
		todo.size = &domain.Frame{Type: domain.FrameSize, Columns: columns, Rows: rows}
	})
	return nil
}

// Abort implements ports.Shell. The guest has some seconds to say that all is gone, for which nobody waits.
func (h *HostShell) Abort() error {
	if !h.finish(domain.Result{}, domain.ErrShellAborted) {
		return h.usable()
	}
	h.stdout.abort(domain.ErrShellAborted)
	h.stderr.abort(domain.ErrShellAborted)
	h.tellAbort()
	return nil
}

// Expire implements ports.HostShell.
func (h *HostShell) Expire(result domain.Result) error {
	if !h.finish(result, nil) {
		return h.usable()
	}
	h.stdout.cut()
	h.stderr.cut()
	h.tellAbort()
	return nil
}

// tellAbort has the guest end the shell, and gives it its time for that.
func (h *HostShell) tellAbort() {
	h.readOn(abortLinger)
	h.conn.hurry(time.Now().Add(lastWrite)) // what is being written has the turn, and may be stuck
	h.ask(func(todo *pending) { todo.abort = true })
}

// Done implements ports.ShellSession.
func (h *HostShell) Done() <-chan struct{} { return h.done }

// Wait implements ports.Shell.
func (h *HostShell) Wait() (bool, error) {
	<-h.done
	result, err := h.outcome()
	return result.Success, err
}

// Result implements ports.ShellSession.
func (h *HostShell) Result(ctx context.Context) (domain.Result, error) {
	select {
	case <-h.done:
		return h.outcome()
	case <-ctx.Done():
		return domain.Result{}, context.Cause(ctx)
	}
}
