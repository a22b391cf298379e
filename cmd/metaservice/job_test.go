package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// fakeMachine is a machine whose guest is a function: it calls its host until it returns, and then the
// machine has died.
type fakeMachine struct {
	err  error // of Boot
	live func(ask func(method, path, body string) int, stopped <-chan struct{})
}

type fakeGuest struct {
	stop, done chan struct{}
	stopped    bool
}

func (m *fakeMachine) Boot(_ context.Context, options ports.BootOptions) (ports.Guest, error) {
	if m.err != nil {
		return nil, m.err
	}
	g := &fakeGuest{stop: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-g.stop
		cancel() // its connections end with it
	}()
	go func() {
		defer close(g.done)
		m.live(func(method, path, body string) int {
			answer := httptest.NewRecorder()
			options.Handler.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body)))
			return answer.Code
		}, g.stop)
	}()
	return g, nil
}

func (g *fakeGuest) Done() <-chan struct{} { return g.done }
func (g *fakeGuest) Err() error            { return nil }
func (g *fakeGuest) Stop(context.Context) error {
	if !g.stopped {
		g.stopped = true
		close(g.stop)
	}
	<-g.done
	return nil
}

// do runs a job in a fake machine, and tells its exit status, what it said and how long it took.
func do(t *testing.T, machine *fakeMachine, change func(*job)) (status int, out, said string, took time.Duration) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	signals := newInterrupts()
	words := newWords(&stderr, false)
	j := &job{
		machine: machine, execute: domain.Execute{Command: []string{"true"}}, bootTimeout: time.Minute,
		words: words, inner: slog.New(slog.DiscardHandler), interrupts: signals,
		out: newOutlet(&stdout, signals), say: newOutlet(&stderr, signals),
	}
	var err error
	if j.record, err = newRecord(j.out, "", words); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(j)
	}
	begun := time.Now()
	status = j.run()
	return status, stdout.String(), stderr.String(), time.Since(begun)
}

func succeed(ask func(method, path, body string) int) {
	ask(http.MethodGet, "/engine/v1/execute", "")
	ask(http.MethodPost, "/engine/v1/log", "hello\n")
	ask(http.MethodPut, "/engine/v1/success", "")
}

func TestGuestsThatGo(t *testing.T) {
	for name, test := range map[string]struct {
		machine fakeMachine
		signal  time.Duration // when one comes
		timeout time.Duration
		status  int
		says    []string
		within  time.Duration
	}{
		"a machine that doesn't boot": {
			machine: fakeMachine{err: errors.New("no kernel")},
			status:  exitOurs, says: []string{"the machine did not start: no kernel", `artifact "a" was not fetched: the guest never started`},
		},
		"a guest that never calls": {
			machine: fakeMachine{live: func(_ func(method, path, body string) int, stopped <-chan struct{}) { <-stopped }},
			status:  exitOurs, says: []string{"did not call its host within 1m0s", "no guest any more to fetch it from"}, within: time.Minute,
		},
		"a time-out before a guest has called": {
			machine: fakeMachine{live: func(_ func(method, path, body string) int, stopped <-chan struct{}) { <-stopped }},
			timeout: 10 * time.Second,
			status:  exitTimedOut, says: []string{"the task's time is over", `artifact "b" was not fetched: no guest has ever called`}, within: 25 * time.Second,
		},
		"a signal before a guest has called": {
			machine: fakeMachine{live: func(_ func(method, path, body string) int, stopped <-chan struct{}) { <-stopped }},
			signal:  time.Second,
			status:  exitSignal + 2, says: []string{"ended by SIGINT"}, within: time.Second,
		},
		"a machine that dies after the result": {
			machine: fakeMachine{live: func(ask func(method, path, body string) int, stopped <-chan struct{}) { succeed(ask) }},
			status:  exitOurs, says: []string{`artifact "a" was not fetched: list-folder of "a": the guest's machine has ended`, `artifact "b" was not fetched`},
		},
		"a guest that doesn't poll": {
			machine: fakeMachine{live: func(ask func(method, path, body string) int, stopped <-chan struct{}) { succeed(ask); <-stopped }},
			status:  exitOurs, says: []string{"no guest polled for it in time", `artifact "b" was not fetched: the guest does not answer any more`}, within: 90 * time.Second,
		},
		"a guest that is lost": {
			machine: fakeMachine{live: func(ask func(method, path, body string) int, stopped <-chan struct{}) {
				ask(http.MethodGet, "/engine/v1/poll", "")
				<-stopped
			}},
			status: exitOurs, says: []string{"guest lost", `artifact "b" was not fetched: there is no guest any more`}, within: 75 * time.Second,
		},
		"a signal while artifacts are fetched": {
			machine: fakeMachine{live: func(ask func(method, path, body string) int, stopped <-chan struct{}) { succeed(ask); <-stopped }},
			signal:  time.Second,
			status:  exitSignal + 2, says: []string{`artifact "a" was not fetched: list-folder of "a": interrupted`, `artifact "b" was not fetched: interrupted`}, within: time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				status, out, said, took := do(t, &test.machine, func(j *job) {
					j.artifacts = []artifact{{path: "a", target: filepath.Join(folder, "a")}, {path: "b", target: filepath.Join(folder, "b")}}
					j.timeout = test.timeout
					if test.signal > 0 {
						time.AfterFunc(test.signal, func() { j.interrupts.add(syscall.SIGINT) })
					}
				})
				if status != test.status {
					t.Errorf("the exit status is %d, not %d", status, test.status)
				}
				for _, says := range test.says {
					if !strings.Contains(said, says) {
						t.Errorf("it does not say %q but\n%s", says, said)
					}
				}
				if took > test.within+3*time.Second {
					t.Errorf("it took %s, more than %s", took, test.within)
				}
				if out != "" && out != "hello\n" {
					t.Errorf("on standard output there is %q", out)
				}
			})
			if left, _ := filepath.Glob(filepath.Join(folder, "*")); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}
