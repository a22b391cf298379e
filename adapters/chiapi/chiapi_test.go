package chiapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"}

// Every endpoint with every method: its own are served, and each other is refused with the list.
func TestEveryEndpointWithEveryMethod(t *testing.T) {
	endpoints := []struct {
		path  string
		allow []string
		want  map[string]domain.Code // of the methods that are allowed, where it isn't 200
	}{
		{path: "/engine/v1/execute", allow: []string{"GET"}},
		{path: "/engine/v1/poll", allow: []string{"GET"}},
		{path: "/engine/v1/ping", allow: []string{"GET"}},
		{path: "/engine/v1/log", allow: []string{"POST"}},
		{path: "/engine/v1/success", allow: []string{"PUT"}},
		{path: "/engine/v1/failed", allow: []string{"PUT"}},
		{
			path: "/engine/v1/reply", allow: []string{"GET", "POST"},
			want: map[string]domain.Code{"GET": domain.CodeUnknownActionID, "POST": domain.CodeUnknownActionID},
		},
		{
			path: "/engine/v2/hello", allow: []string{"POST"},
			want: map[string]domain.Code{"POST": domain.CodeInvalidPayload},
		},
	}
	for _, endpoint := range endpoints {
		for _, method := range methods {
			t.Run(method+" "+endpoint.path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, h := newService(t, nil)
					a := ask(t, h, method, endpoint.path, "")
					code := endpoint.want[method]
					allow := ""
					if !slices.Contains(endpoint.allow, method) {
						code = domain.CodeMethodNotAllowed
						allow = strings.Join(endpoint.allow, ", ")
					}
					if got := a.Header().Get("Allow"); got != allow {
						t.Errorf("Allow is %q, want %q", got, allow)
					}
					if code == "" {
						a.fine(t, "the answer")
					} else {
						a.refused(t, "the answer", code)
					}
				})
			})
		}
	}
}

func TestUnknownPaths(t *testing.T) {
	_, h := newService(t, nil)
	for _, path := range []string{
		"/", "/engine", "/engine/", "/engine/v1", "/engine/v1/", "/engine/v1/unknown", "/engine/v2/poll", "/engine/v2/log",
		"/engine/v1/execute/", "/engine/v1//execute", "//engine/v1/execute", "/engine/v1/../v1/execute", "/ENGINE/v1/execute",
		"/engine/v1/%65xecute", "/engine%2Fv1%2Fexecute", "/engine/v1/execute%00", "/\x1b[31m"[:1] + "%1b[31m", "/favicon.ico",
		"/" + strings.Repeat("x", 5000),
	} {
		for _, method := range methods {
			a := ask(t, h, method, path, "")
			message := a.refused(t, method+" "+path[:min(len(path), 40)], domain.CodeNoSuchEndPoint)
			if len(message) > 1200 {
				t.Errorf("the message has %d bytes", len(message))
			}
			if allow := a.Header().Get("Allow"); allow != "" {
				t.Errorf("%s %.40s: Allow is %q", method, path, allow)
			}
		}
	}
}

// Fault 11: a reply with the wrong method uses the action up.
func TestAWrongMethodDoesntUseTheActionUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, nil)
		got := fetch(t.Context(), t, s)
		id := take(t, h).ID()
		for method, allow := range map[string]string{
			"GET": "POST", "HEAD": "GET, POST", "PUT": "GET, POST", "DELETE": "GET, POST", "PATCH": "GET, POST", "OPTIONS": "GET, POST", "TRACE": "GET, POST", "BREW": "GET, POST",
		} {
			a := ask(t, h, method, replyTo(id), "")
			a.refused(t, method, domain.CodeMethodNotAllowed)
			if got := a.Header().Get("Allow"); got != allow {
				t.Errorf("%s: Allow is %q, want %q", method, got, allow)
			}
		}
		ask(t, h, "POST", replyTo(id), "content").fine(t, "the reply")
		if f := <-got; f.err != nil || f.content != "content" {
			t.Errorf("fetched %q, %v", f.content, f.err)
		}
		ask(t, h, "POST", replyTo(id), "content").refused(t, "the reply again", domain.CodeUnknownActionID)
		ask(t, h, "GET", replyTo(id), "").refused(t, "a handshake for it", domain.CodeUnknownActionID)
	})
}

// A shell's reply is a websocket handshake, which is a GET.
func TestAShellIsNotAnsweredByPost(t *testing.T) {
	s, _ := newService(t, nil)
	shell, err := domain.ExecShell("7", domain.ShellSpec{})
	if err != nil {
		t.Fatal(err)
	}
	h := chiapi.New(fake{GuestAPI: s, pending: func(domain.ActionID) (domain.Action, error) { return shell, nil }}, silence)
	a := ask(t, h, "POST", replyTo("7"), "")
	a.refused(t, "the reply", domain.CodeMethodNotAllowed)
	if allow := a.Header().Get("Allow"); allow != "GET" {
		t.Errorf("Allow is %q", allow)
	}
}

// Waiting 30 s for another reply would help nobody: the guest has just given its answer.
func TestAWrongContentTypeFailsTheActionAtOnce(t *testing.T) {
	for _, contentType := range []string{"", "text/plain", "application/octet-stream", "application/json; charset", "\x1b[31m"} {
		synctest.Test(t, func(t *testing.T) {
			s, h := newService(t, nil)
			got := folder(t.Context(), s)
			id := take(t, h).ID()
			start := time.Now()
			a := ask(t, h, "POST", replyTo(id), `{"files":[],"notFound":false}`, "Content-Type", contentType)
			message := a.refused(t, contentType, domain.CodeInvalidPayload)
			l := <-got
			if !errors.Is(l.err, domain.ErrInvalidReply) || time.Since(start) > 0 {
				t.Errorf("%q: the caller gets %v after %s", contentType, l.err, time.Since(start))
			}
			for _, text := range []string{message, l.err.Error()} {
				if !strings.Contains(text, "application/json") || !strings.Contains(text, domain.Quote(contentType)) {
					t.Errorf("%q: it is told %q", contentType, text)
				}
			}
			ask(t, h, "POST", replyTo(id), `{"files":[]}`, "Content-Type", "application/json").refused(t, "again", domain.CodeUnknownActionID)
		})
	}
}

func TestAContentTypeMayHaveParameters(t *testing.T) {
	for _, contentType := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""} {
		synctest.Test(t, func(t *testing.T) {
			s, h := newService(t, nil)
			got := folder(t.Context(), s)
			ask(t, h, "POST", replyTo(take(t, h).ID()), `{"files":["/folder/a"],"notFound":false}`, "Content-Type", contentType).fine(t, contentType)
			if l := <-got; l.err != nil || len(l.listing.Files) != 1 {
				t.Errorf("%q: %v, %v", contentType, l.listing, l.err)
			}
		})
	}
}

// An answer that stays in a buffer is one that the guest never got, though its poll ended well.
func TestAPollIsFlushedBeforeItCounts(t *testing.T) {
	s, _ := newService(t, nil)
	action, err := domain.GetArtifact("1", "/x")
	if err != nil {
		t.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	h := chiapi.New(fake{GuestAPI: s, poll: func(deliver func(domain.Action) error) error {
		err := deliver(action)
		if !recorder.Flushed {
			t.Error("it is not flushed")
		}
		return err
	}}, silence)
	h.ServeHTTP(recorder, httptest.NewRequest("GET", wire.PathPoll, nil))
	if got, err := wire.DecodeAction(recorder.Body.Bytes()); err != nil || got.ID() != "1" {
		t.Errorf("handed %s, %v", got, err)
	}
}

// dead is a connection that can't be written to any more.
type dead struct {
	*httptest.ResponseRecorder
	write, flush error
}

func (d dead) Write(p []byte) (int, error) {
	if d.write != nil {
		return 0, d.write
	}
	return d.ResponseRecorder.Write(p)
}

func (d dead) FlushError() error { return d.flush }

func TestAnActionThatCantBeWrittenGoesToTheNextPoll(t *testing.T) {
	reset := errors.New("connection reset by peer")
	for name, w := range map[string]dead{
		"write fails": {write: reset},
		"flush fails": {flush: reset},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := newService(t, nil)
				got := fetch(t.Context(), t, s)
				w.ResponseRecorder = httptest.NewRecorder()
				func() {
					defer func() {
						if p := recover(); p != http.ErrAbortHandler {
							t.Errorf("the handler ended with %v", p)
						}
					}()
					h.ServeHTTP(w, httptest.NewRequest("GET", wire.PathPoll, nil))
				}()
				start := time.Now()
				id := take(t, h).ID()
				if time.Since(start) > 0 {
					t.Errorf("the next poll waited for %s", time.Since(start))
				}
				ask(t, h, "POST", replyTo(id), "content").fine(t, "the reply")
				if f := <-got; f.err != nil {
					t.Error(f.err)
				}
			})
		})
	}
}

const (
	helloWithResult = `{"version":"2","bootId":"b","os":"linux","arch":"amd64","features":["result","other"]}`
	helloWithout    = `{"version":"2","bootId":"b","os":"linux","arch":"amd64","features":["other"]}`
	report          = `{"exitCode":3,"signal":"","reason":"exited","message":"three"}`
)

func TestHello(t *testing.T) {
	s, h := newService(t, nil)
	a := ask(t, h, "POST", wire.PathHello, helloWithResult, "Content-Type", "application/json")
	a.fine(t, "hello")
	if got := a.Body.String(); got != `{"features":["result","tar","exec","shell2"]}` {
		t.Errorf("the host offers %s", got)
	}
	if got := s.Features(); len(got) != 1 || got[0] != domain.FeatureResult {
		t.Errorf("used are %v", got)
	}
	for _, body := range []string{"", "x", "{}", `{"bootId":""}`, `{"bootId":"` + strings.Repeat("b", 300) + `"}`} {
		ask(t, h, "POST", wire.PathHello, body, "Content-Type", "application/json").refused(t, body, domain.CodeInvalidPayload)
	}
	large := `{"bootId":"b","version":"` + strings.Repeat("v", wire.MaxHello) + `"}`
	message := ask(t, h, "POST", wire.PathHello, large, "Content-Type", "application/json").refused(t, "a large one", domain.CodePayloadTooLarge)
	if !strings.Contains(message, "65536 bytes") {
		t.Errorf("it says %q", message)
	}
}

// A version 1 guest may send anything at all with its result; nobody ever looked at it.
func TestAResultsBodyCountsOnlyAfterAHelloThatNamedIt(t *testing.T) {
	for name, test := range map[string]struct {
		hello, contentType, body string
		want                     bool
	}{
		"no hello":              {contentType: "application/json", body: report},
		"no hello, nonsense":    {contentType: "application/json", body: "{{{"},
		"another feature":       {hello: helloWithout, contentType: "application/json", body: report},
		"no content type":       {hello: helloWithResult, body: report},
		"another content type":  {hello: helloWithResult, contentType: "text/plain", body: report},
		"no body, no type":      {hello: helloWithResult},
		"named":                 {hello: helloWithResult, contentType: "application/json", body: report, want: true},
		"named, with a charset": {hello: helloWithResult, contentType: "application/json; charset=utf-8", body: report, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := newService(t, nil)
				if test.hello != "" {
					ask(t, h, "POST", wire.PathHello, test.hello).fine(t, "hello")
				}
				ask(t, h, "PUT", wire.PathFailed, test.body, "Content-Type", test.contentType).fine(t, "the result")
				outcome, err := s.Outcome(t.Context())
				if err != nil || outcome.Status != domain.StatusFailed {
					t.Fatal(outcome, err)
				}
				got := outcome.Report()
				if (got != nil) != test.want || got != nil && (got.ExitCode != 3 || got.Message != "three") {
					t.Errorf("the report is %v", got)
				}
			})
		})
	}
}

func TestAReportThatCantBeIsRefused(t *testing.T) {
	for _, body := range []string{"{{{", "", `{"exitCode":0,"reason":"vanished"}`, report /* of a success */} {
		s, h := newService(t, nil)
		ask(t, h, "POST", wire.PathHello, helloWithResult).fine(t, "hello")
		ask(t, h, "PUT", wire.PathSuccess, body, "Content-Type", "application/json").refused(t, body, domain.CodeInvalidPayload)
		if s.Resolved() {
			t.Errorf("%s resolves the task", body)
		}
	}
}

// 4xx is final for a guest: a limit that answered a result with one would leave the task without.
func TestAResultThatIsTooLargeIsHungUpOn(t *testing.T) {
	s, h := newService(t, nil)
	ask(t, h, "POST", wire.PathHello, helloWithResult).fine(t, "hello")
	large := `{"exitCode":0,"reason":"exited","message":"` + strings.Repeat("m", wire.MaxResult) + `"}`
	for _, path := range []string{wire.PathSuccess, wire.PathFailed} {
		a := ask(t, h, "PUT", path, large, "Content-Type", "application/json")
		if !a.hungUp || a.Body.Len() > 0 || s.Resolved() {
			t.Errorf("%s: hung up %t, answered %s, resolved %t", path, a.hungUp, a.Body, s.Resolved())
		}
	}
	ask(t, h, "PUT", wire.PathSuccess, "").fine(t, "the result without a report")
}

// records keeps what is logged.
type records struct {
	slog.Handler
	messages *[]string
}

func (r records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) Handle(_ context.Context, record slog.Record) error {
	text := record.Message
	record.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	*r.messages = append(*r.messages, text)
	return nil
}

func TestTheHostsFailuresAreLoggedAndNotTold(t *testing.T) {
	s, _ := newService(t, nil)
	var logged []string
	disk := fmt.Errorf("%w: %w", domain.ErrLog, &fs.PathError{Op: "write", Path: "/secret/log", Err: errors.New("no space left")})
	h := chiapi.New(fake{GuestAPI: s, log: func(context.Context, io.Reader) error { return disk }},
		slog.New(records{messages: &logged}))
	message := ask(t, h, "POST", wire.PathLog, "text").refused(t, "log", domain.CodeInternalError)
	if strings.Contains(message, "secret") {
		t.Errorf("the guest is told %q", message)
	}
	if len(logged) != 1 || !strings.Contains(logged[0], "/secret/log: no space left") || !strings.Contains(logged[0], wire.PathLog) {
		t.Errorf("logged is %q", logged)
	}
}

// After the result the guest is told once more what it said, and never what to run.
func TestAfterTheResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, func(c *host.Config) { c.Resolved = func(domain.Outcome) {} })
		ask(t, h, "PUT", wire.PathSuccess, "").fine(t, "success")
		ask(t, h, "PUT", wire.PathSuccess, "").fine(t, "success again")
		ask(t, h, "PUT", wire.PathFailed, "").refused(t, "failed", domain.CodeResourceConflict)
		ask(t, h, "GET", wire.PathExecute, "").refused(t, "execute", domain.CodeResourceConflict)
		if _, err := s.Outcome(t.Context()); err != nil {
			t.Error(err)
		}
		ask(t, h, "POST", wire.PathLog, "late").refused(t, "log", domain.CodeResourceConflict)
		ask(t, h, "GET", wire.PathPing, "").fine(t, "ping")
	})
}

var _ ports.GuestAPI = fake{}

// Fault 1: the kernel takes what is written to a guest that has hung up, and drops it.
func TestAGuestThatIsKnownToHaveHungUpIsHandedNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, nil)
		got := fetch(t.Context(), t, s)
		synctest.Wait()
		recorder := httptest.NewRecorder()
		gone := wire.WithConn(t.Context(), wire.Conn{HungUp: func() bool { return true }})
		func() {
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("the handler ended with %v", p)
				}
			}()
			h.ServeHTTP(recorder, httptest.NewRequestWithContext(gone, "GET", wire.PathPoll, nil))
		}()
		if recorder.Body.Len() > 0 {
			t.Errorf("it was handed %s", recorder.Body)
		}
		ask(t, h, "POST", replyTo(take(t, h).ID()), "content").fine(t, "the reply")
		if f := <-got; f.err != nil {
			t.Error(f.err)
		}
	})
}
