package chiapi_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/tempfiles"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counter makes ids that tests can foretell: 1, 2, 3 and so on.
type counter struct{ n atomic.Int64 }

func (c *counter) NewID() domain.ActionID {
	return domain.ActionID(strconv.FormatInt(c.n.Add(1), 10))
}

var silence = slog.New(slog.DiscardHandler)

// newService makes the real service, closed when the test ends, and its handler.
func newService(t *testing.T, change func(*host.Config)) (*host.Service, http.Handler) {
	t.Helper()
	config := host.Config{
		Execute: domain.Execute{Command: []string{"true"}, Env: map[string]string{"A": "1"}},
		IDs:     &counter{},
		Limits:  domain.Limits{Tries: 1},
	}
	if change != nil {
		change(&config)
	}
	s, err := host.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, chiapi.New(s, silence)
}

// answer is what a request got: nothing if the handler hung up.
type answer struct {
	*httptest.ResponseRecorder
	hungUp bool
}

// ask makes a request without a connection. Headers are pairs of name and value.
func ask(t *testing.T, h http.Handler, method, target, body string, header ...string) (a answer) {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r := httptest.NewRequestWithContext(t.Context(), method, target, content)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a.ResponseRecorder = httptest.NewRecorder()
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			a.hungUp = true
		} else if p != nil {
			panic(p)
		}
	}()
	h.ServeHTTP(a.ResponseRecorder, r)
	return a
}

// refused checks that a request was refused in the one form that there is.
func (a answer) refused(t *testing.T, what string, code domain.Code) (message string) {
	t.Helper()
	response := a.Result()
	body, _ := io.ReadAll(response.Body)
	refusal, ok := errors.AsType[*domain.Error](wire.DecodeError(a.Code, body))
	if !ok || refusal.Code != code || a.Code != wire.Status(code) || refusal.Message == "" {
		t.Errorf("%s: %d %s, want %d with %s", what, a.Code, body, wire.Status(code), code)
		return ""
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s: the content type is %q", what, got)
	}
	if got := response.Header.Get("Content-Length"); got != strconv.Itoa(len(body)) {
		t.Errorf("%s: the length is %q, the body has %d bytes", what, got, len(body))
	}
	return refusal.Message
}

// fine checks that a request got 200.
func (a answer) fine(t *testing.T, what string) {
	t.Helper()
	if a.Code != http.StatusOK || a.hungUp {
		t.Errorf("%s: %d %s", what, a.Code, a.Body)
	}
}

// take polls once.
func take(t *testing.T, h http.Handler) domain.Action {
	t.Helper()
	a := ask(t, h, "GET", wire.PathPoll, "")
	a.fine(t, "poll")
	action, err := wire.DecodeAction(a.Body.Bytes())
	if err != nil {
		t.Errorf("the poll's answer: %v", err)
	}
	return action
}

func replyTo(id domain.ActionID) string { return wire.PathReply + "?id=" + string(id) }

// fetched is what became of a Fetch.
type fetched struct {
	content string
	err     error
}

// fetch asks the guest for a file, on a goroutine of its own.
func fetch(ctx context.Context, t *testing.T, s *host.Service) <-chan fetched {
	t.Helper()
	storage, err := tempfiles.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan fetched, 1)
	go func() {
		file, err := s.Fetch(ctx, "/file", storage)
		if err != nil {
			got <- fetched{err: err}
			return
		}
		content, err := io.ReadAll(file)
		got <- fetched{string(content), errors.Join(err, file.Close())}
	}()
	return got
}

// folder asks the guest for a list, on a goroutine of its own.
func folder(ctx context.Context, s *host.Service) <-chan listed {
	got := make(chan listed, 1)
	go func() {
		listing, err := s.List(ctx, "/folder")
		got <- listed{listing, err}
	}()
	return got
}

type listed struct {
	listing domain.Listing
	err     error
}

// fake is the real service but for some of its answers.
type fake struct {
	ports.GuestAPI
	pending func(domain.ActionID) (domain.Action, error)
	poll    func(func(domain.Action) error) error
	log     func(context.Context, io.Reader) error
}

func (f fake) Pending(id domain.ActionID) (domain.Action, error) {
	if f.pending == nil {
		return f.GuestAPI.Pending(id)
	}
	return f.pending(id)
}

func (f fake) Park() ports.Poll {
	if f.poll == nil {
		return f.GuestAPI.Park()
	}
	return fakePoll{f.poll}
}

// fakePoll is a poll that is ready.
type fakePoll struct {
	deliver func(func(domain.Action) error) error
}

func (fakePoll) Notify(wake func()) { wake() }

func (p fakePoll) Deliver(deliver func(domain.Action) error) error { return p.deliver(deliver) }

func (fakePoll) Leave() {}

func (f fake) Log(ctx context.Context, body io.Reader) error {
	if f.log == nil {
		return f.GuestAPI.Log(ctx, body)
	}
	return f.log(ctx, body)
}

// pipes is a listener in memory: real sockets don't count as blocked in a bubble.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// serve serves h over pipes until the test ends, by the server that guests have, and returns what dials.
func serve(t *testing.T, h http.Handler) (dial func() net.Conn) {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var over sync.WaitGroup
	over.Go(func() { httpserver.Serve(ctx, p, h, silence) })
	t.Cleanup(func() {
		cancel()
		over.Wait()
	})
	return func() net.Conn {
		ours, theirs := net.Pipe()
		p.conns <- theirs
		t.Cleanup(func() { ours.Close() })
		return ours
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (*pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// readAnswer reads one answer whole.
func readAnswer(conn net.Conn) (answer, error) {
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	a := answer{ResponseRecorder: httptest.NewRecorder()}
	for name, values := range response.Header {
		a.Header()[name] = values
	}
	if response.Close { // the parser takes it out
		a.Header().Set("Connection", "close")
	}
	a.WriteHeader(response.StatusCode)
	_, err = io.Copy(a.Body, response.Body)
	return a, err
}
