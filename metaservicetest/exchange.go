package metaservicetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
)

// exchange is one request and its answer, by a call of the handler in place of a connection. It is the
// handler's http.ResponseWriter, with what a server's has beside that: flushes and read deadlines.
type exchange struct {
	ctx     context.Context // of the request at the host: ends when the guest hangs up
	hangUp  context.CancelCauseFunc
	request *http.Request // as the handler gets it
	body    *requestBody
	out     io.Writer     // where the answer's body goes
	begun   chan struct{} // closed when status and headers are there
	hijacks chan net.Conn // room for one: the guest's end of a connection that was hijacked; nil is no way
	own     net.Conn      // what is hijacked where the request came by a connection, with its reader
	reader  *bufio.Reader

	taken  bool // hijacked
	header http.Header
	sent   http.Header // as they were at WriteHeader
	status int
}

var errHungUp = errors.New("the connection to the host broke")

// newExchange prepares a request. Its context ends with the caller's, or the guest's life.
func (g *Guest) newExchange(req *http.Request, out io.Writer) *exchange {
	ctx, hangUp := context.WithCancelCause(req.Context())
	// httputil.ReverseProxy looks for it, to tell how to break an answer off.
	ctx = context.WithValue(ctx, http.ServerContextKey, &http.Server{})
	x := &exchange{ctx: ctx, hangUp: hangUp, out: out, begun: make(chan struct{}), header: make(http.Header)}
	r := req.Clone(ctx)
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	g.show(r)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.RemoteAddr = "169.254.169.253:1024"
	r.RequestURI = r.URL.RequestURI()
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	r.URL.Scheme, r.URL.Host = "", ""
	source := r.Body
	if source == nil {
		source = http.NoBody
	}
	if r.ContentLength == 0 && source != http.NoBody {
		r.ContentLength = -1
		r.TransferEncoding = []string{"chunked"}
	}
	x.body = &requestBody{source: source, left: r.ContentLength, exchange: x}
	r.Body = x.body
	if source == http.NoBody {
		r.Body = http.NoBody
	}
	x.request = r
	return x
}

// serve calls the handler, and tells why there is no whole answer, if there isn't.
func (x *exchange) serve(g *Guest) (err error) {
	defer context.AfterFunc(g.life, func() { x.hangUp(context.Cause(g.life)) })()
	defer context.AfterFunc(x.ctx, func() { x.body.fail(context.Cause(x.ctx)) })()
	defer x.body.fail(errHungUp) // whoever sends it still is told that nobody reads it
	defer func() {
		if p := recover(); p != nil {
			err = errHungUp
			if p != http.ErrAbortHandler {
				err = fmt.Errorf("the host's handler panicked: %v\n%s", p, debug.Stack())
			}
		}
	}()
	g.handler.ServeHTTP(x, x.request)
	if x.taken {
		return nil
	}
	x.WriteHeader(http.StatusOK)
	return context.Cause(x.ctx)
}

func (x *exchange) Header() http.Header { return x.header }

func (x *exchange) WriteHeader(status int) {
	if x.taken || x.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	x.status = status
	x.sent = x.header.Clone()
	if status != http.StatusSwitchingProtocols { // then it is written by Hijack
		close(x.begun)
	}
}

// Hijack implements http.Hijacker: the handler gets one end of a connection in memory, the guest the other.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	switch {
	case x.hijacks == nil && x.own == nil:
		return nil, nil, http.ErrNotSupported
	case x.taken:
		return nil, nil, http.ErrHijacked
	case x.status != 0 && x.status != http.StatusSwitchingProtocols:
		return nil, nil, errors.New("the answer has begun: it is too late to hijack its connection")
	}
	x.taken = true
	host, reader := x.own, x.reader
	if host == nil {
		var guest net.Conn
		host, guest = newPipe()
		reader = bufio.NewReader(host)
		x.hijacks <- guest
	}
	if x.status != 0 {
		var head bytes.Buffer
		fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", x.status, http.StatusText(x.status))
		_ = x.sent.Write(&head) // to memory
		head.WriteString("\r\n")
		if _, err := host.Write(head.Bytes()); err != nil {
			host.Close()
			return nil, nil, err
		}
	}
	return host, bufio.NewReadWriter(reader, bufio.NewWriter(host)), nil
}

func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 && x.header.Get("Content-Type") == "" {
		x.header.Set("Content-Type", http.DetectContentType(p))
	}
	x.WriteHeader(http.StatusOK)
	switch {
	case x.taken:
		return 0, http.ErrHijacked
	case x.ctx.Err() != nil:
		return 0, context.Cause(x.ctx)
	case x.status == http.StatusNoContent, x.status == http.StatusNotModified:
		return 0, http.ErrBodyNotAllowed
	case x.request.Method == http.MethodHead:
		return len(p), nil
	}
	return x.out.Write(p)
}

// Flush implements http.Flusher.
func (x *exchange) Flush() { _ = x.FlushError() }

// FlushError is what http.ResponseController looks for: nothing gets out once the guest has hung up.
func (x *exchange) FlushError() error {
	x.WriteHeader(http.StatusOK)
	return context.Cause(x.ctx)
}

// SetReadDeadline is what http.ResponseController looks for.
func (x *exchange) SetReadDeadline(t time.Time) error { return x.body.setDeadline(t) }

// response is the answer as far as it is there.
func (x *exchange) response(req *http.Request, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", x.status, http.StatusText(x.status)),
		StatusCode:    x.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        x.sent,
		Body:          body,
		ContentLength: -1,
		Request:       req,
	}
}

// requestBody is a request's body at the host. What ends it, be it a deadline, the guest hanging up or
// the answer's end, ends it for good, and closes its source, so that a Read that waits returns.
type requestBody struct {
	source   io.ReadCloser
	exchange *exchange
	left     int64 // bytes that are to come; -1 is until the source ends

	mu       sync.Mutex // guards what follows
	err      error
	deadline *time.Timer
}

func (b *requestBody) Read(p []byte) (int, error) {
	if err := b.failed(); err != nil {
		return 0, err
	}
	if b.left >= 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.source.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	switch failed := b.failed(); {
	case err == nil:
		return n, nil
	case failed != nil:
		return n, failed
	case err == io.EOF && b.left <= 0:
		return n, io.EOF
	case err == io.EOF:
		err = fmt.Errorf("the request's body ended %d bytes early", b.left)
	}
	// A sender whose source fails breaks its connection.
	b.exchange.hangUp(err)
	b.fail(io.ErrUnexpectedEOF)
	return n, io.ErrUnexpectedEOF
}

// Close implements io.Closer.
func (b *requestBody) Close() error { return nil }

func (b *requestBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *requestBody) fail(err error) {
	b.mu.Lock()
	if b.deadline != nil {
		b.deadline.Stop()
	}
	first := b.err == nil
	if first {
		b.err = err
	}
	b.mu.Unlock()
	if first {
		_ = b.source.Close()
	}
}

func (b *requestBody) setDeadline(t time.Time) error {
	b.mu.Lock()
	if b.deadline != nil {
		b.deadline.Stop()
		b.deadline = nil
	}
	over := !t.IsZero() && time.Until(t) <= 0
	if !t.IsZero() && !over && b.err == nil {
		b.deadline = time.AfterFunc(time.Until(t), func() { b.fail(os.ErrDeadlineExceeded) })
	}
	b.mu.Unlock()
	if over {
		b.fail(os.ErrDeadlineExceeded)
	}
	return nil
}

// url is where the guest finds path, which may have a query.
func url(path string) string {
	return "http://" + wire.DefaultHost + "/" + strings.TrimPrefix(path, "/")
}

// call makes a request of the protocol, on the caller's own goroutine, and returns the answer whole.
func (g *Guest) call(method, path string, header http.Header, body io.Reader) ([]byte, error) {
	end, err := g.begin()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer end()
	req, err := http.NewRequestWithContext(g.life, method, url(path), body)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	var answer bytes.Buffer
	x := g.newExchange(req, &answer)
	defer x.hangUp(nil)
	if err = x.serve(g); err == nil && x.status != http.StatusOK {
		err = wire.DecodeError(x.status, answer.Bytes())
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return answer.Bytes(), nil
}

// RoundTrip implements http.RoundTripper: it makes any request of the host, such as one to a proxy. The
// answer streams; close its body.
func (g *Guest) RoundTrip(req *http.Request) (*http.Response, error) {
	end, err := g.begin()
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	r, w := io.Pipe()
	x := g.newExchange(req, w)
	x.hijacks = make(chan net.Conn, 1)
	served := make(chan error, 1)
	looked := make(chan struct{})
	defer close(looked)
	go func() { // ends with the handler; Stop waits for it
		defer end()
		defer x.hangUp(nil)
		defer context.AfterFunc(x.ctx, func() { w.CloseWithError(context.Cause(x.ctx)) })()
		err := x.serve(g)
		served <- err
		w.CloseWithError(err) // nil is its end
		<-looked              // what it has answered comes before its having hung up
	}()
	select {
	case <-x.begun:
		return x.response(req, answerBody{r, x}), nil
	case conn := <-x.hijacks:
		return g.hijacked(req, conn)
	case err := <-served:
		switch {
		case err != nil:
			return nil, err
		case x.taken:
			return g.hijacked(req, <-x.hijacks)
		}
		return x.response(req, answerBody{r, x}), nil
	case <-x.ctx.Done():
		return nil, context.Cause(x.ctx)
	}
}

// hijacked reads the answer off a connection that the handler has taken. It ends with the guest, or where
// either end closes it.
func (g *Guest) hijacked(req *http.Request, conn net.Conn) (*http.Response, error) {
	context.AfterFunc(g.life, func() { conn.Close() })
	defer context.AfterFunc(req.Context(), func() { conn.Close() })() // until it is answered
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, req)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		answer.Body = upgraded{reader, conn}
	} else {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{answer.Body, conn}
	}
	return answer, nil
}

// upgraded is a connection that speaks another protocol now: an io.ReadWriteCloser, as net/http has it.
type upgraded struct {
	io.Reader
	net.Conn
}

func (u upgraded) Read(p []byte) (int, error) { return u.Reader.Read(p) }

// answerBody is an answer's body at the guest, which hangs up by closing it.
type answerBody struct {
	*io.PipeReader
	exchange *exchange
}

func (b answerBody) Close() error {
	b.exchange.hangUp(errHungUp)
	return b.PipeReader.Close()
}

// Client is an HTTP client whose every request goes to the host, whatever its URL says. It shows the guest's
// token, once the guest has said hello with it; a request that has the header Authorization, be it with a nil
// value, shows that: such is the guest's task, which doesn't know the token.
func (g *Guest) Client() *http.Client {
	return &http.Client{Transport: g, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Get asks the host for a path, such as /NAME/… of a proxy. Close the answer's body.
func (g *Guest) Get(path string) (*http.Response, error) { return g.Client().Get(url(path)) }
