package chiapi_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/tempfiles"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
)

// plainLog is a slog.Handler that escapes nothing, as a careless one might be.
type plainLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *plainLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *plainLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *plainLog) WithGroup(string) slog.Handler            { return l }

func (l *plainLog) Handle(_ context.Context, record slog.Record) error {
	line := []string{record.Message}
	record.Attrs(func(a slog.Attr) bool {
		line = append(line, plain(a))
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.Join(line, " "))
	return nil
}

func plain(a slog.Attr) string {
	value := a.Value.Resolve()
	if value.Kind() != slog.KindGroup {
		return a.Key + "=" + value.String()
	}
	var all []string
	for _, inner := range value.Group() {
		all = append(all, plain(inner))
	}
	return a.Key + "=" + strings.Join(all, " ")
}

// unfit tells what of a text is unfit for a terminal.
func unfit(text string) string {
	for i, c := range text {
		if unicode.IsControl(c) || c == utf8.RuneError {
			return fmt.Sprintf("%U at byte %d of %q", c, i, text)
		}
	}
	if len(text) > 16<<10 {
		return fmt.Sprintf("%d bytes of text", len(text))
	}
	return ""
}

// FuzzThreat31 sends whatever there may be to a host that waits for a file, a list, a shell and an end of the
// task, and looks at all that it says: in its log, and to those who wait.
func FuzzThreat31(f *testing.F) {
	const escape = "\x1b[31m\x07\x00\r\x9b\xff\u202e"
	for _, seed := range []string{
		"GET /engine/v1/execute HTTP/1.1\r\nHost: " + "h" + "\r\n\r\n",
		"GET /" + "%1b%5b31m%0a" + " HTTP/1.1\r\nHost: h\r\n\r\n",
		"\x1b GET / HTTP/1.1\r\n\r\n",
		"BREW /engine/v1/log HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /engine/v1/log HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\x1bZ\r\n",
		"POST /engine/v1/reply?id=1 HTTP/1.1\r\nHost: h\r\nX-Taskcluster-Worker-Error: a\x80\x9b\tb\r\nContent-Length: 0\r\n\r\n",
		"POST /engine/v1/reply?id=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n1",
		"POST /engine/v1/reply?id=%1b%00 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
		"POST /engine/v1/reply?id=2 HTTP/1.1\r\nHost: h\r\nContent-Type: \x9btext\r\nContent-Length: 2\r\n\r\n{}",
		`POST /engine/v1/reply?id=2 HTTP/1.1` + "\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 56\r\n\r\n" + `{"files":["/f/\u001b[31m","/\u0000","../\u009b"],"x\u001b":` + escape,
		"POST /engine/v1/reply?id=2 HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{\"files\":[\"\x1b\x00\"],\"notFound\":1}",
		"POST /engine/v1/reply?id=3 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
		"GET /engine/v1/reply?id=4 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: \x9b\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \x80\r\n\r\n",
		"GET /engine/v1/reply?id=4 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n",
		"POST /engine/v2/hello HTTP/1.1\r\nHost: h\r\nContent-Length: 107\r\n\r\n" + `{"version":"\u001b[31m","bootId":"b\u0007","os":"\n","arch":"\r","features":["result","\u009b","exec","ack"]}`,
		"PUT /engine/v1/failed HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 70\r\n\r\n" + `{"exitCode":3,"signal":"\u001b","reason":"\u0000","message":"\u001b[0m"}`,
		"PUT /engine/v1/success HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /engine/v1/ping HTTP/1.1\r\nHost: \x1b\r\nVia: \x9b\r\n\r\n",
		"GET /engine/v1/ping HTTP/1.1\r\nHost: a\x9bb\r\nOrigin: \x9b\r\nAuthorization: Bearer \x9b\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	storage, err := tempfiles.New(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(input)))
		if err != nil {
			return // net/http's own refusal: see TestMessagesOfNetHTTPAreQuoted
		}
		logged := new(plainLog)
		service, err := host.New(host.Config{
			Execute: domain.Execute{Command: []string{"true"}}, IDs: &counter{}, Logger: slog.New(logged),
			Limits: domain.Limits{Tries: 1, Hold: 1},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var waiting sync.WaitGroup
		errs := make(chan error, 4)
		for _, wait := range []func() error{
			func() error { _, err := service.Fetch(ctx, "/f", storage); return err },
			func() error { _, err := service.List(ctx, "/f"); return err },
			func() error { return service.Kill(ctx) },
			func() error { _, err := service.OpenShell(ctx, domain.ShellSpec{}); return err },
		} {
			waiting.Go(func() { errs <- wait() })
			handed := false
			for !handed { // one after the other, for the ids to be known
				err := service.Poll(ctx, func(a domain.Action) error { handed = a.Kind() != domain.KindNone; return nil })
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		h := chiapi.New(service, slog.New(logged))
		func() {
			defer func() {
				if p := recover(); p != nil && p != http.ErrAbortHandler {
					panic(p)
				}
			}()
			h.ServeHTTP(httptest.NewRecorder(), request.WithContext(ctx))
		}()
		cancel()
		waiting.Wait()
		service.Close()
		close(errs)
		for err := range errs {
			if err == nil {
				continue
			}
			for line := range strings.Lines(err.Error()) { // errors that were joined
				if what := unfit(strings.TrimSuffix(line, "\n")); what != "" {
					t.Errorf("an error has %s", what)
				}
			}
		}
		logged.mu.Lock()
		defer logged.mu.Unlock()
		for _, line := range logged.lines {
			if what := unfit(line); what != "" {
				t.Errorf("the log has %s", what)
			}
		}
	})
}
