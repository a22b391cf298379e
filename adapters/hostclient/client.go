// Package hostclient is a guest's way to its host: the metaservice protocol's requests over HTTP/1.1,
// on TCP or a unix socket. It knows no proxy, no TLS and no redirects, since the metadata address has
// none, and it never tries again by itself but where net/http knows that nothing was lost: a request
// that is idempotent, or of which not a byte went out, on a kept connection that the host had closed.
package hostclient

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Options are what a Client may be told; a zero field means its default.
type Options struct {
	DialTimeout   time.Duration // default 5 s
	PollTimeout   time.Duration // of a whole poll; default 35 s, since a host holds it for 30 s
	AnswerTimeout time.Duration // for the answer to anything else but transfers; default 30 s
	// Token is shown with every request.
	Token domain.Token
	// Dial replaces the way to the host, such as by a pipe in tests.
	Dial func(ctx context.Context) (net.Conn, error)
}

func (o Options) withDefaults() Options {
	if o.DialTimeout <= 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.PollTimeout <= 0 {
		o.PollTimeout = 35 * time.Second
	}
	if o.AnswerTimeout <= 0 {
		o.AnswerTimeout = 30 * time.Second
	}
	return o
}

const (
	// writeBuffer holds a block of the log or of a folder's list with its chunk's frame, so that both
	// leave in one write.
	writeBuffer = 128 << 10
	readBuffer  = 16 << 10
	// idleConns is how many connections are kept: one for each action that may run at once.
	idleConns = 64
	// idleTime is below the 75 s after which a host closes a quiet connection. Whoever closes first
	// decides whether a request can run into the closing.
	idleTime = 60 * time.Second
)

// userAgent tells the host's logs who asks.
const userAgent = "metaservice-guest-tools"

// Client is a ports.Host.
type Client struct {
	target    target
	options   Options
	transport *http.Transport
	token     atomic.Pointer[domain.Token] // to be shown; nil is none
}

var _ ports.Host = (*Client)(nil)

// New checks the address, which may be empty for the metadata address, and connects to nothing yet.
func New(address string, options Options) (*Client, error) {
	t, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	c := &Client{target: t, options: options.withDefaults()}
	if !options.Token.IsZero() {
		c.token.Store(&options.Token)
	}
	c.transport = &http.Transport{
		DialContext:         c.dial,
		DisableCompression:  true,
		MaxIdleConns:        idleConns,
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     idleTime,
		WriteBufferSize:     writeBuffer,
		ReadBufferSize:      readBuffer,
	}
	return c, nil
}

// Close closes the connections that no request uses. The client may be used again.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Address is where the host is, for messages.
func (c *Client) Address() string {
	if c.target.network == "unix" {
		return "unix:" + c.target.address
	}
	return c.target.address
}

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	end := newConnEnd(conn)
	switch conn := conn.(type) {
	case *net.UnixConn:
		return bigCopyConn{conn, end}, nil
	case *net.TCPConn:
		wire.DontPace(conn)
		return tcpConn{conn, end}, nil
	}
	wire.DontPace(conn)
	return anyConn{conn, end}, nil
}

func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	if c.options.Dial != nil {
		return c.options.Dial(ctx)
	}
	dialer := net.Dialer{Timeout: c.options.DialTimeout}
	return dialer.DialContext(ctx, c.target.network, c.target.address)
}

// bigCopyConn copies files to a unix socket in large blocks: there is no sendfile to one, and net/http
// would take 32 KiB at a time.
type bigCopyConn struct {
	*net.UnixConn
	*connEnd
}

func (c bigCopyConn) Read(p []byte) (int, error) { return c.watch(c.UnixConn.Read(p)) }

const bigCopy = 256 << 10

// ReadFrom is what io.Copy calls.
func (c bigCopyConn) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{c.UnixConn}, r, make([]byte, bigCopy))
}

var errNoAnswer = errors.New("the host did not answer in time")

// noAnswer is an errNoAnswer that tells the time. It is made for every request, and its words for hardly any.
type noAnswer time.Duration

func (t noAnswer) Error() string { return fmt.Sprintf("%v: %s", errNoAnswer, time.Duration(t)) }

func (noAnswer) Unwrap() error { return errNoAnswer }

// request makes a request to path.
func (c *Client) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	u := url.URL{Scheme: "http", Host: c.target.host, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header = c.headers()
	return req, nil
}

// headers are what every request has.
func (c *Client) headers() http.Header {
	headers := http.Header{"User-Agent": {userAgent}}
	if token := c.token.Load(); token != nil {
		wire.ShowToken(headers, *token)
	}
	return headers
}

// small makes a request whose body, if there is any, is small JSON, and which may be made twice
// without harm.
func (c *Client) small(ctx context.Context, timeout time.Duration, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, noAnswer(timeout))
	defer cancel()
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := c.request(ctx, method, path, nil, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", wire.TypeJSON)
	}
	// An empty list of values isn't sent: it only tells net/http that it may send the request again
	// where a kept connection turns out to be closed.
	req.Header["Idempotency-Key"] = nil
	return c.do(req)
}

// do makes the request, reads the answer whole, and turns refusals into errors.
func (c *Client) do(req *http.Request) ([]byte, error) {
	data, err := c.roundTrip(req)
	if err == nil {
		return data, nil
	}
	// The context's cause says more than the broken read that it led to.
	if cause := context.Cause(req.Context()); cause != nil && !errors.Is(err, cause) {
		if _, refused := errors.AsType[*domain.Error](err); !refused {
			err = cause
		}
	}
	return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
}

func (c *Client) roundTrip(req *http.Request) ([]byte, error) {
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := wire.ReadAll(resp.Body, wire.MaxAnswer, "on answers")
	if err != nil {
		return nil, fmt.Errorf("the host's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, wire.DecodeError(resp.StatusCode, data)
	}
	return data, nil
}

// OpenShell is ports.Host's.
func (c *Client) OpenShell(ctx context.Context, id domain.ActionID, shell2 bool) (ports.GuestShell, error) {
	ctx, cancel := c.answerIn(ctx)
	defer cancel()
	u := url.URL{Scheme: "http", Host: c.target.host, Path: wire.PathReply, RawQuery: url.Values{wire.QueryID: {string(id)}}.Encode()}
	shell, err := wsshell.Dial(ctx, wsshell.Target{
		URL:    u.String(),
		Header: c.headers(),
		Dial:   c.connect,
		Shell2: shell2,
	})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", http.MethodGet, wire.PathReply, cmp.Or(context.Cause(ctx), err))
	}
	return shell, nil
}

// Hello is ports.Host's.
func (c *Client) Hello(ctx context.Context, hello domain.Hello) (domain.Features, error) {
	data, err := c.small(ctx, c.options.AnswerTimeout, http.MethodPost, wire.PathHello, wire.EncodeHello(hello))
	if err != nil {
		return nil, err
	}
	return wire.DecodeFeatures(data)
}

// HasToken is ports.Host's.
func (c *Client) HasToken() bool { return c.token.Load() != nil }

// TakeToken is ports.Host's. It must not be made again by itself, on whatever connection: the host would take
// that for somebody else.
func (c *Client) TakeToken(ctx context.Context) error {
	ctx, cancel := c.answerIn(ctx)
	defer cancel()
	req, err := c.request(ctx, http.MethodPost, wire.PathToken, nil, nil)
	if err != nil {
		return err
	}
	data, err := c.do(req)
	if err != nil {
		return err
	}
	token, err := wire.DecodeToken(data)
	if err != nil {
		return fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
	}
	c.token.Store(&token)
	return nil
}

// Execute is ports.Host's.
func (c *Client) Execute(ctx context.Context) (domain.Execute, error) {
	data, err := c.small(ctx, c.options.AnswerTimeout, http.MethodGet, wire.PathExecute, nil)
	if err != nil {
		return domain.Execute{}, err
	}
	return wire.DecodeExecute(data)
}

// Poll is ports.Host's.
func (c *Client) Poll(ctx context.Context) (domain.Action, error) {
	data, err := c.small(ctx, c.options.PollTimeout, http.MethodGet, wire.PathPoll, nil)
	if err != nil {
		return domain.Action{}, err
	}
	return wire.DecodeAction(data)
}

// Resolve is ports.Host's.
func (c *Client) Resolve(ctx context.Context, result domain.Result) error {
	path := wire.PathFailed
	if result.Success {
		path = wire.PathSuccess
	}
	var body []byte
	if result.Report != nil {
		body = wire.EncodeReport(*result.Report)
	}
	_, err := c.small(ctx, c.options.AnswerTimeout, http.MethodPut, path, body)
	return err
}
