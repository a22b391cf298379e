package chiapi_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// idle is a machine that hands its token over to a guest that does nothing, but what the test does.
type idle struct {
	token chan string
}

func (idle) HandsTokenOver() {}

func (m idle) Boot(_ context.Context, options ports.BootOptions) (ports.Guest, error) {
	m.token <- options.Token
	return &idleGuest{done: make(chan struct{})}, nil
}

type idleGuest struct{ done chan struct{} }

func (g *idleGuest) Done() <-chan struct{} { return g.done }
func (g *idleGuest) Err() error            { return nil }
func (g *idleGuest) Stop(context.Context) error {
	close(g.done)
	return nil
}

// plenty are limits that let these tests ask as fast as they can.
var plenty = domain.Limits{Tries: 1, Requests: 1e6, RequestBurst: 1e6}

// handed starts a task whose token the machine hands over.
func handed(t *testing.T, mode domain.TokenMode) (s *host.Service, h http.Handler, token string) {
	t.Helper()
	m := idle{token: make(chan string, 1)}
	task, err := host.Start(t.Context(), host.Job{
		Config: host.Config{
			Execute: domain.Execute{Command: []string{"true"}, Env: map[string]string{"A": "1"}},
			IDs:     &counter{}, Limits: plenty, Token: mode,
		},
		Machine: m,
		Handler: func(api ports.GuestAPI) ports.Handler {
			h = chiapi.New(api, silence)
			return h
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { task.Close(context.Background()) })
	return task.Service(), h, <-m.token
}

// taken makes a service whose token went over the wire.
func taken(t *testing.T) (s *host.Service, h http.Handler, token string) {
	t.Helper()
	s, h = newService(t, func(c *host.Config) { c.Token, c.Limits = domain.TokenRequired, plenty })
	a := ask(t, h, "POST", wire.PathToken, "")
	a.fine(t, "the token")
	if got := a.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("the token may be cached: %q", got)
	}
	given, err := wire.DecodeToken(a.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return s, h, given.Reveal()
}

// untouched is a body that nobody may read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body of a request that is refused was read")
	return 0, io.ErrUnexpectedEOF
}

// endPoints are all that the router knows, as METHOD path.
func endPoints(t *testing.T, h http.Handler) []string {
	t.Helper()
	var all []string
	err := chi.Walk(chiapi.Routes(), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		all = append(all, method+" "+route)
		return nil
	})
	if err != nil || len(all) < 10 {
		t.Fatalf("the end points are %v, %v", all, err)
	}
	return all
}

// unread makes a request whose body must stay unread, with what it has in the header Authorization.
func unread(t *testing.T, h http.Handler, endPoint, query string, shown ...string) answer {
	t.Helper()
	method, path, _ := strings.Cut(endPoint, " ")
	r := httptest.NewRequestWithContext(t.Context(), method, path+query, untouched{t})
	r.ContentLength = 10
	r.Header["Authorization"] = shown
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	a := answer{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(a.ResponseRecorder, r)
	return a
}

// notTokens are all kinds of headers that don't show the token.
func notTokens(token string) map[string][]string {
	return map[string][]string{
		"none":             nil,
		"an empty one":     {""},
		"no scheme":        {token},
		"another scheme":   {"Basic " + token},
		"no token":         {"Bearer "},
		"another token":    {"Bearer " + strings.Repeat("A", len(token))},
		"its beginning":    {"Bearer " + token[:len(token)-1]},
		"more than it":     {"Bearer " + token + "A"},
		"its other case":   {"Bearer " + strings.ToUpper(token)},
		"with a space":     {"Bearer  " + token},
		"two":              {"Bearer " + token, "Bearer " + token},
		"one after none":   {"", "Bearer " + token},
		"one of 16 KiB":    {"Bearer " + strings.Repeat("A", 16<<10)},
		"nothing readable": {"\x00\xff"},
	}
}

// TestEveryEndPointDemandsTheToken asks the router for its end points: a new one that forgets the token fails
// here.
func TestEveryEndPointDemandsTheToken(t *testing.T) {
	for name, start := range map[string]func(*testing.T) (*host.Service, http.Handler, string){
		"required, by the machine": func(t *testing.T) (*host.Service, http.Handler, string) { return handed(t, domain.TokenRequired) },
		"required, over the wire":  taken,
		"auto, once it was shown": func(t *testing.T) (*host.Service, http.Handler, string) {
			s, h, token := handed(t, domain.TokenAuto)
			ask(t, h, "GET", wire.PathPing, "").fine(t, "a ping without a token")
			ask(t, h, "GET", wire.PathPing, "", "Authorization", "Bearer "+token).fine(t, "a ping with one")
			return s, h, token
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, h, token := start(t)
			right := []string{"Authorization", "bEARER " + token}
			file := fetch(t.Context(), t, s)
			poll := ask(t, h, "GET", wire.PathPoll, "", right...)
			action, err := wire.DecodeAction(poll.Body.Bytes())
			if err != nil || action.Kind() != domain.KindGetArtifact {
				t.Fatalf("the poll brought %v, %v", action, err)
			}
			messages := make(map[string]int)
			for _, endPoint := range endPoints(t, h) {
				for how, shown := range notTokens(token) {
					what := endPoint + " with " + how
					a := unread(t, h, endPoint, "?id="+string(action.ID()), shown...)
					if endPoint == "POST "+wire.PathToken { // which has rules of its own
						if a.Code == http.StatusOK {
							t.Errorf("%s: %s", what, a.Body)
						}
						continue
					}
					messages[a.refused(t, what, domain.CodeUnauthorized)]++
					if got := a.Header().Get("WWW-Authenticate"); got != `Bearer realm="metaservice"` {
						t.Errorf("%s: asked for %q", what, got)
					}
					if got := a.Header().Get("Connection"); got != "close" {
						t.Errorf("%s: the connection is %q with a body in it", what, got)
					}
				}
			}
			if len(messages) != 1 {
				t.Errorf("the refusals tell what was wrong: %v", messages)
			}
			if s.Resolved() {
				t.Error("somebody without the token has resolved the task")
			}
			// Nothing of that has used the id up, or parked a poll that would take the next action.
			ask(t, h, "POST", replyTo(action.ID()), "content", right...).fine(t, "the reply")
			if got := <-file; got.err != nil || got.content != "content" {
				t.Errorf("the file is %q, %v", got.content, got.err)
			}
			if _, err := s.Pending(action.ID()); !errors.Is(err, domain.ErrUnknownAction) {
				t.Errorf("the id is still good: %v", err)
			}
			for _, endPoint := range []string{"GET " + wire.PathExecute, "POST " + wire.PathLog, "PUT " + wire.PathSuccess} {
				method, path, _ := strings.Cut(endPoint, " ")
				ask(t, h, method, path, "", right...).fine(t, endPoint)
			}
		})
	}
}

// What guest-tools post-log shows proves nothing of those that run the task, which may be another user's.
func TestALogThatShowsTheTokenLocksNobodyOut(t *testing.T) {
	_, h, token := handed(t, domain.TokenAuto)
	right := []string{"Authorization", "Bearer " + token}
	ask(t, h, "POST", wire.PathLog, "a line", right...).fine(t, "a log with the token")
	for _, endPoint := range []string{"POST " + wire.PathLog, "GET " + wire.PathExecute, "GET " + wire.PathPing} {
		method, path, _ := strings.Cut(endPoint, " ")
		ask(t, h, method, path, "").fine(t, endPoint+" after it")
	}
	hello := `{"version":"2","bootId":"1","os":"linux","arch":"amd64","features":["token"]}`
	ask(t, h, "POST", wire.PathHello, hello, right...).fine(t, "a hello with the token")
	ask(t, h, "POST", wire.PathLog, "a line").refused(t, "a log after it", domain.CodeUnauthorized)
}

// A path that isn't there, and a method that a path hasn't, tell nothing of a guest: they need no token.
func TestWhatIsNotThereNeedsNoToken(t *testing.T) {
	_, h, _ := taken(t)
	ask(t, h, "GET", "/engine/v9/execute", "").refused(t, "an unknown path", domain.CodeNoSuchEndPoint)
	ask(t, h, "POST", wire.PathExecute, "").refused(t, "a wrong method", domain.CodeMethodNotAllowed)
	ask(t, h, "GET", wire.PathToken, "").refused(t, "a wrong method", domain.CodeMethodNotAllowed)
}

func TestTheTokenOverTheWire(t *testing.T) {
	hello := `{"version":"2","bootId":"1","os":"linux","arch":"amd64","features":["token"]}`
	s, h := newService(t, func(c *host.Config) { c.Token = domain.TokenRequired })
	ask(t, h, "GET", wire.PathExecute, "").refused(t, "execute before the token", domain.CodeUnauthorized)
	ask(t, h, "PUT", wire.PathSuccess, "").refused(t, "a result before the token", domain.CodeUnauthorized)
	a := ask(t, h, "POST", wire.PathHello, hello)
	a.fine(t, "the hello")
	if got := a.Body.String(); got != `{"features":["result","tar","exec","shell2","token"]}` {
		t.Errorf("the host offers %s", got)
	}
	ask(t, h, "POST", wire.PathHello, hello, "Authorization", "Bearer x").refused(t, "a hello with a wrong one", domain.CodeUnauthorized)
	ask(t, h, "POST", wire.PathToken, "", "Authorization", "Bearer x").refused(t, "the token with a wrong one", domain.CodeUnauthorized)

	// A guest that hung up, or that can't be written to, has nothing.
	gone := httptest.NewRequestWithContext(wire.WithConn(t.Context(), wire.Conn{HungUp: func() bool { return true }}), "POST", wire.PathToken, nil)
	lost := answer{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(lost.ResponseRecorder, gone)
	if lost.Code == http.StatusOK {
		t.Errorf("who has hung up gets %s", lost.Body)
	}
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("the connection that can't be written to goes on: %v", p)
			}
		}()
		h.ServeHTTP(deaf{httptest.NewRecorder()}, httptest.NewRequestWithContext(t.Context(), "POST", wire.PathToken, nil))
	}()

	a = ask(t, h, "POST", wire.PathToken, "")
	a.fine(t, "the token")
	given, err := wire.DecodeToken(a.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	right := []string{"Authorization", "Bearer " + given.Reveal()}
	ask(t, h, "POST", wire.PathToken, "").refused(t, "the token again", domain.CodeResourceConflict)
	ask(t, h, "POST", wire.PathToken, "", right...).refused(t, "the token again, by who has it", domain.CodeResourceConflict)
	ask(t, h, "POST", wire.PathHello, hello).refused(t, "a hello without it", domain.CodeUnauthorized)
	ask(t, h, "POST", wire.PathHello, strings.Replace(hello, `"1"`, `"2"`, 1), right...).fine(t, "the hello of another boot, with it")
	ask(t, h, "GET", wire.PathExecute, "", right...).fine(t, "execute")
	if !s.Features().Has(domain.FeatureToken) {
		t.Errorf("both know %v", s.Features())
	}
}

func TestNoTokenIsDemandedWhereThereIsNone(t *testing.T) {
	for _, mode := range []domain.TokenMode{domain.TokenAuto, domain.TokenOff} {
		_, h := newService(t, func(c *host.Config) { c.Token = mode })
		ask(t, h, "POST", wire.PathToken, "").refused(t, string(mode)+": the token", domain.CodeNoSuchEndPoint)
		for _, shown := range []string{"", "Bearer x", "Basic x"} {
			ask(t, h, "GET", wire.PathExecute, "", "Authorization", shown).fine(t, string(mode)+": execute with "+shown)
		}
		ask(t, h, "PUT", wire.PathSuccess, "", "Authorization", "Bearer x").fine(t, string(mode)+": a result")
	}
	_, h, token := handed(t, domain.TokenOff)
	if token != "" {
		t.Error("a machine gets a token that nobody demands")
	}
	ask(t, h, "GET", wire.PathExecute, "").fine(t, "off: execute")
}

// A guest without a token is as cheap to refuse as any other that asks for nothing sensible.
func TestWrongTokensAreCheap(t *testing.T) {
	_, h, token := taken(t)
	cost := func(path string, shown string) float64 {
		r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		r.Header.Set("Authorization", shown)
		return testing.AllocsPerRun(200, func() { h.ServeHTTP(httptest.NewRecorder(), r) })
	}
	unknown := cost("/engine/v9/x", "")
	for what, shown := range map[string]string{
		"none": "", "a wrong one": "Bearer " + token[:42] + "!", "a long one": "Bearer " + strings.Repeat("A", 15<<10),
	} {
		if got := cost(wire.PathExecute, shown); got > unknown+8 {
			t.Errorf("%s costs %.0f allocations, a path that isn't there %.0f", what, got, unknown)
		}
	}
}

// deaf is a connection that takes no answer.
type deaf struct{ *httptest.ResponseRecorder }

func (deaf) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }
