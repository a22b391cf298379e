package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/ports"
)

// tcpMachine boots nothing, and listens for a guest that the test plays.
type tcpMachine struct{ booted chan booted }

// booted is where a guest finds its host, and what its machine was given for it.
type booted struct{ address, token string }

type tcpGuest struct {
	stop func()
	done chan struct{}
}

func (m tcpMachine) Boot(_ context.Context, options ports.BootOptions) (ports.Guest, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	g := tcpGuest{stop: stop, done: make(chan struct{})}
	go func() { // ends with Stop
		defer close(g.done)
		_ = httpserver.Serve(ctx, listener, options.Handler, slog.New(slog.DiscardHandler))
	}()
	m.booted <- booted{listener.Addr().String(), options.Token}
	return g, nil
}

func (g tcpGuest) Done() <-chan struct{} { return g.done }
func (g tcpGuest) Err() error            { return nil }
func (g tcpGuest) Stop(context.Context) error {
	g.stop()
	<-g.done
	return nil
}

// tokenMachine is one that hands tokens over.
type tokenMachine struct{ tcpMachine }

func (tokenMachine) HandsTokenOver() {}

// An old guest gets from a host that has a token for it, byte for byte, what it gets from one that has none.
func TestAnOldGuestIsServedAsEver(t *testing.T) {
	plain := tcpMachine{make(chan booted, 1)}
	without := oldTask(t, plain, plain.booted, func(token string) bool { return token == "" })
	tokens := tokenMachine{tcpMachine{make(chan booted, 1)}}
	with := oldTask(t, tokens, tokens.booted, func(token string) bool { return len(token) == 43 })
	if diff := cmp.Diff(without, with); diff != "" || !strings.Contains(with, `{"env":{"A":"1"},"command":["true"]}`) {
		t.Errorf("an old guest is told apart (-without a token +with one):\n%s\n%s", diff, with)
	}
}

// oldTask runs a task in an old guest, and returns what that was answered.
func oldTask(t *testing.T, machine ports.Machine, boots <-chan booted, right func(token string) bool) string {
	t.Helper()
	engine, err := metaservice.NewEngine(metaservice.Config{TemporaryFolder: t.TempDir()}, &metaservice.Environment{Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Dispose(context.Background())
	log := new(text)
	builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: []byte(`{"command": ["true"], "env": {"A": "1"}}`), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	sandbox, err := builder.StartSandbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	guest := <-boots
	if !right(guest.token) {
		t.Errorf("the machine was given a token of %d bytes", len(guest.token))
	}
	conn, err := net.Dial("tcp", guest.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	var transcript strings.Builder
	ask := func(request string) (body string) {
		t.Helper()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer.Header.Del("Date")
		bytes, err := httputil.DumpResponse(answer, true)
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ = strings.Cut(string(bytes), "\r\n\r\n")
		transcript.Write(bytes)
		return body
	}
	ask("GET /engine/v1/execute HTTP/1.1\r\n" + goClient + "\r\n")
	ask("POST /engine/v1/log HTTP/1.1\r\n" + goClient + "Transfer-Encoding: chunked\r\n\r\n6\r\nhello\n\r\n0\r\n\r\n")
	ask("PUT /engine/v1/success HTTP/1.1\r\n" + goClient + "Content-Length: 0\r\n\r\n")
	ask("PUT /engine/v1/success HTTP/1.1\r\n" + goClient + "Content-Length: 0\r\n\r\n")
	ask("PUT /engine/v1/failed HTTP/1.1\r\n" + goClient + "Content-Length: 0\r\n\r\n")
	ask("GET /engine/v1/execute HTTP/1.1\r\n" + goClient + "\r\n")
	result, err := sandbox.WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !result.Success() || log.String() != "hello\n" {
		t.Errorf("the task: %v, with the log %q", result.Outcome(), log)
	}
	file := make(chan error, 1)
	go func() {
		f, err := result.ExtractFile(t.Context(), "/file")
		if err == nil {
			content, readErr := io.ReadAll(f)
			if string(content) != "content" {
				err = fmt.Errorf("the file holds %q", content)
			}
			err = errors.Join(err, readErr, f.Close())
		}
		file <- err
	}()
	var action wire.Action
	if err := json.Unmarshal([]byte(ask("GET /engine/v1/poll HTTP/1.1\r\n"+goClient+"\r\n")), &action); err != nil {
		t.Fatal(err)
	}
	ask("POST /engine/v1/reply?id=" + action.ID + " HTTP/1.1\r\n" + goClient + "Content-Length: 7\r\n\r\ncontent")
	if err := <-file; err != nil {
		t.Errorf("the file: %v", err)
	}
	ask("POST /engine/v1/reply?id=unknown HTTP/1.1\r\n" + goClient + "Content-Length: 0\r\n\r\n")
	ask("GET /engine/v1/ping HTTP/1.1\r\n" + goClient + "\r\n")
	return strings.ReplaceAll(transcript.String(), action.ID, "ID")
}
