package proxies_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/proxies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// told answers with who was asked for what.
func told(who string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s: path %q raw %q query %q", who, r.URL.Path, r.URL.RawPath, r.URL.RawQuery)
	})
}

func ask(h http.Handler, target string) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w.Body.String()
}

func TestPaths(t *testing.T) {
	h := proxies.New(told("api"), map[string]http.Handler{"cache": told("cache"), "c": told("c")}, make(chan struct{}))
	for target, want := range map[string]string{
		"/cache/":                     `cache: path "/" raw "" query ""`,
		"/cache/a/b?x=%2F&y":          `cache: path "/a/b" raw "" query "x=%2F&y"`,
		"/cache/a%2Fb/c":              `cache: path "/a/b/c" raw "/a%2Fb/c" query ""`,
		"/cache/%2F":                  `cache: path "//" raw "/%2F" query ""`,
		"/cache//x":                   `cache: path "//x" raw "" query ""`,
		"/cache/../engine/v1/execute": `cache: path "/../engine/v1/execute" raw "" query ""`,
		"/cache/%61":                  `cache: path "/a" raw "/%61" query ""`,
		"/c/x":                        `c: path "/x" raw "" query ""`,
		"/cache/cache/":               `cache: path "/cache/" raw "" query ""`,

		"/cache":             `api: path "/cache" raw "" query ""`,
		"/cache?x":           `api: path "/cache" raw "" query "x"`,
		"/cache%2Fx":         `api: path "/cache/x" raw "/cache%2Fx" query ""`,
		"/%63ache/a%2Fb":     `api: path "/cache/a/b" raw "/%63ache/a%2Fb" query ""`,
		"//cache/x":          `api: path "//cache/x" raw "" query ""`,
		"/cachet/x":          `api: path "/cachet/x" raw "" query ""`,
		"/engine/v1/execute": `api: path "/engine/v1/execute" raw "" query ""`,
		"/":                  `api: path "/" raw "" query ""`,
		"*":                  `api: path "*" raw "" query ""`,
	} {
		if got := ask(h, target); got != want {
			t.Errorf("%s\n got %s\nwant %s", target, got, want)
		}
	}
}

func TestWithoutProxiesItIsTheAPI(t *testing.T) {
	api := http.NewServeMux()
	if got := proxies.New(api, nil, nil); got != http.Handler(api) {
		t.Errorf("it is %v", got)
	}
}

// What the server's writer can do beside writing, the proxy's can.
func TestTheWriterCanDoWhatTheServersCan(t *testing.T) {
	done := make(chan error, 1)
	address, _ := world(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, flushes := w.(http.Flusher)
		_, reads := w.(io.ReaderFrom)
		if !flushes || !reads {
			done <- fmt.Errorf("flushes: %v, reads: %v", flushes, reads)
			return
		}
		control := http.NewResponseController(w)
		n, err := io.Copy(w, strings.NewReader("hello"))
		if n != 5 {
			err = errors.Join(err, fmt.Errorf("%d bytes were copied", n))
		}
		done <- errors.Join(err, control.EnableFullDuplex(), control.SetReadDeadline(time.Now().Add(patience)),
			control.SetWriteDeadline(time.Now().Add(patience)), control.Flush())
	}))
	conn, from := dial(t, address)
	fmt.Fprint(conn, "GET /p/ HTTP/1.1\r\nHost: h\r\n\r\n")
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "hello" {
		t.Errorf("%q, %v", body, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A writer that can't hijack says so.
func TestWhatTheServerCantDo(t *testing.T) {
	var flushed, hijacked error
	h := proxies.New(told("api"), map[string]http.Handler{
		"p": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			flushed = http.NewResponseController(w).Flush()
			_, _, hijacked = http.NewResponseController(w).Hijack()
		}),
	}, make(chan struct{}))
	h.ServeHTTP(struct{ http.ResponseWriter }{httptest.NewRecorder()}, httptest.NewRequest("GET", "/p/", nil))
	if !errors.Is(flushed, http.ErrNotSupported) || !errors.Is(hijacked, http.ErrNotSupported) {
		t.Errorf("%v, %v", flushed, hijacked)
	}
}

func TestTheCallersRequestStaysAsItWas(t *testing.T) {
	h := proxies.New(told("api"), map[string]http.Handler{"p": told("p")}, nil)
	r := httptest.NewRequest("GET", "/p/a%2Fb", nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if r.URL.Path != "/p/a/b" || r.URL.RawPath != "/p/a%2Fb" {
		t.Errorf("it is for %q, %q now", r.URL.Path, r.URL.RawPath)
	}
}

// world is a server whose proxy is p, and how its task ends.
func world(t *testing.T, p http.Handler) (address string, end func()) {
	t.Helper()
	over := make(chan struct{})
	server := httptest.NewServer(proxies.New(told("api"), map[string]http.Handler{"p": p}, over))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), func() { close(over) }
}

// dial is a connection to it that gives up after a while.
func dial(t *testing.T, address string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func TestStreamsBothWays(t *testing.T) {
	address, _ := world(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintln(w, "echo", lines.Text())
			if err := control.Flush(); err != nil {
				return
			}
		}
	}))
	conn, from := dial(t, address)
	fmt.Fprint(conn, "POST /p/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
	var answer *bufio.Scanner
	for i, line := range []string{"first", "second"} {
		fmt.Fprintf(conn, "%x\r\n%s\n\r\n", len(line)+1, line)
		if i == 0 {
			response, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			answer = bufio.NewScanner(response.Body)
		}
		if !answer.Scan() || answer.Text() != "echo "+line {
			t.Fatalf("%q, %v", answer.Text(), answer.Err())
		}
	}
	fmt.Fprint(conn, "0\r\n\r\n")
}

// upgraded hijacks its connection and echoes lines, by a deadline of its own and without a look at the
// context.
func upgraded(ended chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			ended <- err
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		for {
			line, err := buffered.ReadString('\n')
			if err != nil {
				ended <- errors.Join(context.Cause(r.Context()), err)
				return
			}
			fmt.Fprintf(conn, "%s: %s", r.URL.Path, line)
		}
	}
}

// A hijacked connection is nobody's but the proxy's: only its context and its deadline can end it.
func TestAnUpgradeWorksUntilTheTaskIsOver(t *testing.T) {
	ended := make(chan error, 1)
	for name, through := range map[string]func(t *testing.T) http.Handler{
		"hijacked": func(*testing.T) http.Handler { return upgraded(ended) },
		"through a reverse proxy": func(t *testing.T) http.Handler {
			backend := httptest.NewServer(upgraded(ended))
			t.Cleanup(backend.Close)
			target, err := url.Parse(backend.URL)
			if err != nil {
				t.Fatal(err)
			}
			return httputil.NewSingleHostReverseProxy(target)
		},
	} {
		t.Run(name, func(t *testing.T) {
			address, end := world(t, through(t))
			conn, from := dial(t, address)
			fmt.Fprint(conn, "GET /p/socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			response, err := http.ReadResponse(from, nil)
			if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v, %v", response, err)
			}
			for range 3 {
				fmt.Fprint(conn, "hello\n")
				if line, err := from.ReadString('\n'); err != nil || line != "/socket: hello\n" {
					t.Fatalf("%q, %v", line, err)
				}
			}
			end()
			if rest, err := io.ReadAll(from); err != nil || len(rest) > 0 {
				t.Errorf("after the end came %q, %v", rest, err)
			}
			if err := <-ended; name == "hijacked" && !strings.Contains(err.Error(), "has its result") {
				t.Errorf("the handler's context ended by %v", err)
			}
		})
	}
}

// kept hijacks its connection, leaves it to a goroutine that echoes, and returns.
func kept(done chan<- struct{}, ended chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		defer close(done)
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			ended <- err
			return
		}
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		go func() {
			defer conn.Close()
			for {
				line, err := buffered.ReadString('\n')
				if err != nil {
					ended <- err
					return
				}
				fmt.Fprint(conn, line)
			}
		}()
	}
}

// A handler that hijacks and returns leaves a connection of which neither the server nor its context knows:
// it used to live on until the guest's end.
func TestAConnectionThatOutlivesItsHandlerEndsWithTheTask(t *testing.T) {
	done, ended := make(chan struct{}), make(chan error, 1)
	address, end := world(t, kept(done, ended))
	conn, from := dial(t, address)
	fmt.Fprint(conn, "GET /p/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if response, err := http.ReadResponse(from, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", response, err)
	}
	<-done
	fmt.Fprint(conn, "hello\n")
	if line, err := from.ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("%q, %v", line, err)
	}
	end()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the proxy's connection ended by %v", err)
	}
	if rest, err := io.ReadAll(from); err != nil || len(rest) > 0 {
		t.Errorf("after the end came %q, %v", rest, err)
	}
}

// One that is closed before leaves nothing behind that waits for the task's end: TestMain would tell.
func TestAConnectionThatEndsBeforeTheTask(t *testing.T) {
	done, ended := make(chan struct{}), make(chan error, 1)
	address, _ := world(t, kept(done, ended)) // whose task never ends
	conn, from := dial(t, address)
	fmt.Fprint(conn, "GET /p/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if _, err := http.ReadResponse(from, nil); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-ended; err == nil {
		t.Error("the echo ended by nothing")
	}
}

// Either half of a hijacked connection can be closed by itself, and both be copied to and from.
func TestAHijackedConnectionIsAsGoodAsTheServers(t *testing.T) {
	failed := make(chan error, 1)
	address, _ := world(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			failed <- err
			return
		}
		defer conn.Close()
		half, ok := conn.(interface{ CloseWrite() error })
		if !ok {
			failed <- fmt.Errorf("a %T can't be closed by halves", conn)
			return
		}
		_, copied := io.Copy(conn, strings.NewReader("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"))
		closed := half.CloseWrite()
		rest, read := io.ReadAll(buffered)
		if string(rest) != "and more" {
			read = errors.Join(read, fmt.Errorf("then came %q", rest))
		}
		failed <- errors.Join(copied, closed, read)
	}))
	conn, from := dial(t, address)
	fmt.Fprint(conn, "GET /p/ HTTP/1.1\r\nHost: h\r\n\r\n")
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "hello" {
		t.Errorf("%q, %v", body, err)
	}
	fmt.Fprint(conn, "and more")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Error(err)
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

func TestRequestsUnderWayEndWithTheTask(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	for name, wait := range map[string]func(r *http.Request){
		"who looks at the context": func(r *http.Request) { <-r.Context().Done() },
		"who reads the body":       func(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
	} {
		t.Run(name, func(t *testing.T) {
			address, end := world(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				begun <- struct{}{}
				wait(r)
				<-r.Context().Done()
				ended <- context.Cause(r.Context())
			}))
			conn, _ := dial(t, address)
			fmt.Fprint(conn, "POST /p/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
			<-begun
			end()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), "has its result") {
					t.Errorf("the cause is %v", err)
				}
			case <-time.After(patience):
				t.Fatal("the handler goes on")
			}
		})
	}
}

// A request that was answered before the end leaves a connection that is as good as new.
func TestAfterTheEndTheAPIAnswers(t *testing.T) {
	address, end := world(t, told("p"))
	conn, from := dial(t, address)
	get := func(path string) string {
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path)
		response, err := http.ReadResponse(from, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := get("/p/x"); !strings.HasPrefix(got, `p: path "/x"`) {
		t.Errorf("before the end: %s", got)
	}
	end()
	for range 2 {
		if got := get("/p/a%2Fx"); !strings.HasPrefix(got, `api: path "/p/a/x" raw "/p/a%2Fx"`) {
			t.Errorf("after the end: %s", got)
		}
	}
}

// A proxy that panics, as http.ErrAbortHandler has it, takes nothing along.
func TestAPanicPassesThrough(t *testing.T) {
	h := proxies.New(told("api"), map[string]http.Handler{
		"p": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
	}, nil)
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Error("the panic is lost")
		}
	}()
	ask(h, "/p/")
}
