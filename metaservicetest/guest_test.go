package metaservicetest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/metaservicetest"
	"github.com/hexworker/metaservice/ports"
)

// task runs f in a bubble on a sandbox whose guest plays script.
func task(t *testing.T, script metaservicetest.Script, prepare func(ports.SandboxBuilder), f func(t *testing.T, sandbox ports.Sandbox)) {
	t.Helper()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		engine := newEngine(t, script, metaservice.Config{TemporaryFolder: folder})
		defer func() {
			if err := engine.Dispose(context.Background()); err != nil {
				t.Errorf("Dispose: %v", err)
			}
		}()
		builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: []byte(`{"command": ["x"], "machine": {"disks": 2}}`)})
		if err != nil {
			t.Fatal(err)
		}
		if prepare != nil {
			prepare(builder)
		}
		sandbox, err := builder.StartSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f(t, sandbox)
	})
}

// wait waits for a result set, and disposes of it when the test ends.
func wait(t *testing.T, sandbox ports.Sandbox) ports.ResultSet {
	t.Helper()
	result, err := sandbox.WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return result
}

var errPower = errors.New("the power failed")

func TestGuestsThatEndBadly(t *testing.T) {
	tests := map[string]struct {
		script metaservicetest.Script
		status domain.Status
		says   string
		cause  error
		within time.Duration
	}{
		"never calls": {
			func(context.Context, *metaservicetest.Guest) error { return nil },
			domain.StatusMachineDied, "did not call", nil, metaservice.DefaultBootTimeout,
		},
		"dies before it calls": {
			func(context.Context, *metaservicetest.Guest) error { return errPower },
			domain.StatusMachineDied, "", errPower, 0,
		},
		"dies midway": {
			func(_ context.Context, g *metaservicetest.Guest) error {
				log := g.OpenLog()
				_, err := fmt.Fprint(log, "half a ")
				return errors.Join(err, errPower)
			},
			domain.StatusMachineDied, "", errPower, time.Second,
		},
		"dies with its script's goroutine": {
			func(context.Context, *metaservicetest.Guest) error {
				runtime.Goexit() // as t.FailNow does
				return nil
			},
			domain.StatusMachineDied, "left its goroutine", nil, 0,
		},
		"falls silent": {
			func(_ context.Context, g *metaservicetest.Guest) error {
				_, err := g.Poll()
				return err
			},
			domain.StatusGuestLost, "", domain.ErrGuestLost, domain.MaxHold + 45*time.Second,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			task(t, test.script, nil, func(t *testing.T, sandbox ports.Sandbox) {
				began := time.Now()
				_, err := sandbox.WaitForResult(t.Context())
				if took := time.Since(began); took > test.within {
					t.Errorf("it took %s to be told, at most %s are right", took, test.within)
				}
				ended, ok := errors.AsType[*ports.OutcomeError](err)
				if !ok || ended.Outcome.Status != test.status || !errors.Is(err, domain.ErrNonFatalInternalError) {
					t.Fatalf("WaitForResult: %v", err)
				}
				if test.cause != nil && !errors.Is(err, test.cause) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("the error is %v, and doesn't tell: %v %s", err, test.cause, test.says)
				}
			})
		})
	}
}

// Each Abort took a second, for a log that nobody had asked to end.
func TestAbortTakesNoTime(t *testing.T) {
	task(t, metaservicetest.Run(idle), nil, func(t *testing.T, sandbox ports.Sandbox) {
		synctest.Wait() // the log is open, and a poll parked
		began := time.Now()
		if err := sandbox.Abort(); err != nil {
			t.Errorf("Abort: %v", err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("Abort took %s", took)
		}
	})
}

func idle(ctx context.Context, _ metaservicetest.Task) int {
	<-ctx.Done()
	return 1
}

// Nothing waits for a guest under a lock: while it takes its time to end the task, all else answers.
func TestCallsAnswerAtOnceWhileAKillHangs(t *testing.T) {
	const hangs = 10 * time.Second
	script := func(ctx context.Context, g *metaservicetest.Guest) error {
		killed := make(chan struct{})
		g.ServeActions(nil, func() {
			time.Sleep(hangs)
			close(killed)
		})
		if _, err := g.Execute(); err != nil {
			return err
		}
		select {
		case <-killed:
		case <-ctx.Done():
		}
		return g.Fail(137)
	}
	task(t, script, nil, func(t *testing.T, sandbox ports.Sandbox) {
		synctest.Wait()
		began := time.Now()
		if err := sandbox.Kill(); err != nil {
			t.Error(err)
		}
		synctest.Wait() // the guest has the action
		if err := sandbox.Kill(); err != nil {
			t.Error(err)
		}
		if _, err := sandbox.NewShell(t.Context(), nil, false); err != domain.ErrSandboxTerminated {
			t.Errorf("NewShell: %v", err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("they took %s", took)
		}
		result := wait(t, sandbox)
		if took := time.Since(began); took != hangs || result.Outcome().Status != domain.StatusKilled {
			t.Errorf("after %s it is %s", took, result.Outcome().Status)
		}
	})
}

// The poll that is parked when the guest first shows its token ends for that: the next must follow at once.
func TestAPollBeforeTheTokenDelaysNoAction(t *testing.T) {
	const parked = time.Millisecond // less than is between polls that bring nothing
	script := func(_ context.Context, g *metaservicetest.Guest) error {
		killed := make(chan struct{})
		g.ServeActions(nil, func() { close(killed) })
		time.Sleep(parked)
		if _, err := g.Execute(); err != nil {
			return err
		}
		<-killed
		return g.Fail(137)
	}
	task(t, script, nil, func(t *testing.T, sandbox ports.Sandbox) {
		time.Sleep(parked)
		synctest.Wait() // the task is the guest's
		began := time.Now()
		if err := sandbox.Kill(); err != nil {
			t.Error(err)
		}
		result := wait(t, sandbox)
		if took := time.Since(began); took > 0 || result.Outcome().Status != domain.StatusKilled {
			t.Errorf("after %s it is %s", took, result.Outcome().Status)
		}
	})
}

func TestALogThatBreaksIsNoSuccess(t *testing.T) {
	script := func(_ context.Context, g *metaservicetest.Guest) error {
		if _, err := g.Execute(); err != nil {
			return err
		}
		if err := g.Log("whole\n"); err != nil {
			return err
		}
		log := g.OpenLog()
		if _, err := fmt.Fprint(log, "half"); err != nil {
			return err
		}
		log.Break()
		return g.Succeed()
	}
	task(t, script, nil, func(t *testing.T, sandbox ports.Sandbox) {
		result := wait(t, sandbox)
		outcome := result.Outcome()
		if result.Success() || !errors.Is(outcome.Err, domain.ErrLogIncomplete) || outcome.Log.Bytes != int64(len("whole\nhalf")) {
			t.Errorf("the outcome is %+v", outcome)
		}
	})
}

// What a guest calls a name must not lead out of the folder, and half a file is none.
func TestAGuestThatLies(t *testing.T) {
	script := func(_ context.Context, g *metaservicetest.Guest) error {
		if err := g.Succeed(); err != nil {
			return err
		}
		for {
			action, err := g.Poll()
			if err != nil {
				return err
			}
			switch action.Kind() {
			case domain.KindListFolder:
				err = g.Reply(action.ID(), http.Header{"Content-Type": {"application/json"}},
					strings.NewReader(`{"files": ["out/../../etc/passwd", "/etc/passwd", "out/good"], "notFound": false}`))
			case domain.KindGetArtifact:
				var req *http.Request
				req, err = http.NewRequest(http.MethodPost, "http://host/engine/v1/reply?id="+string(action.ID()), strings.NewReader("half"))
				if err != nil {
					return err
				}
				if action.Path() == "out/half" {
					req.ContentLength = 8
				}
				if answer, err := g.Client().Do(req); err == nil {
					answer.Body.Close()
				}
			}
			if err != nil {
				return err
			}
		}
	}
	task(t, script, nil, func(t *testing.T, sandbox ports.Sandbox) {
		result := wait(t, sandbox)
		var names []string
		err := result.ExtractFolder(t.Context(), "out", func(name string, _ io.ReadSeeker) error {
			names = append(names, name)
			return nil
		})
		if !errors.Is(err, domain.ErrNonFatalInternalError) || !errors.Is(err, domain.ErrRefusedName) {
			t.Errorf("ExtractFolder: %v", err)
		}
		if fmt.Sprint(names) != "[good]" {
			t.Errorf("the names are %q", names)
		}
		if _, err := result.ExtractFile(t.Context(), "out/half"); !errors.Is(err, domain.ErrBrokenReply) {
			t.Errorf("ExtractFile of half a file: %v", err)
		}
	})
}

func TestAGuestOfVersion1(t *testing.T) {
	script := func(_ context.Context, g *metaservicetest.Guest) error {
		req, err := http.NewRequest(http.MethodPut, "http://169.254.169.254/engine/v1/failed", nil)
		if err != nil {
			return err
		}
		answer, err := g.Client().Do(req)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}
	task(t, script, nil, func(t *testing.T, sandbox ports.Sandbox) {
		if outcome := wait(t, sandbox).Outcome(); outcome.Status != domain.StatusFailed || outcome.Report() != nil {
			t.Errorf("the outcome is %+v", outcome)
		}
	})
}

func TestFilesOfAnyFileSystem(t *testing.T) {
	files := fstest.MapFS{"etc/conf": {Data: []byte("1")}, "srv/data/x": {Data: []byte("2")}}
	script := func(_ context.Context, g *metaservicetest.Guest) error {
		if string(g.Options()) != `{"disks":2}` {
			return fmt.Errorf("the machine's options are %s", g.Options())
		}
		g.ServeActions(files, nil)
		return g.Succeed()
	}
	task(t, script, nil, func(t *testing.T, sandbox ports.Sandbox) {
		result := wait(t, sandbox)
		got := ""
		for _, folder := range []string{"/", ".", "/srv"} {
			err := result.ExtractFolder(t.Context(), folder, func(name string, file io.ReadSeeker) error {
				if name == "srv/data/x" || name == "data/x" {
					content, err := io.ReadAll(file)
					got += string(content)
					return err
				}
				return nil
			})
			if err != nil {
				t.Errorf("ExtractFolder of %s: %v", folder, err)
			}
		}
		if got != "222" {
			t.Errorf("the file is %q, three times the same", got)
		}
	})
}

// A proxy's answer streams, a guest that hangs up ends its handler, and a connection can be taken over.
func TestProxiesAsOverAConnection(t *testing.T) {
	ended := make(chan error, 2)
	feed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "first")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		ended <- r.Context().Err()
	})
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		fmt.Fprint(buffered, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		buffered.Flush()
		_, _ = io.CopyN(conn, buffered, 4)
	})
	script := func(_ context.Context, g *metaservicetest.Guest) error {
		if _, err := g.Execute(); err != nil { // or it could not succeed
			return err
		}
		answer, err := g.Get("/feed/")
		if err != nil {
			return err
		}
		first := make([]byte, 5)
		_, err = io.ReadFull(answer.Body, first)
		if err := errors.Join(err, answer.Body.Close()); err != nil || string(first) != "first" {
			return fmt.Errorf("the feed begins with %q, %v", first, err)
		}
		upgraded, err := g.Get("/echo/")
		if err != nil {
			return err
		}
		conn, ok := upgraded.Body.(io.ReadWriteCloser)
		if !ok || upgraded.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("the answer is %s with a %T", upgraded.Status, upgraded.Body)
		}
		if _, err := io.WriteString(conn, "ping"); err != nil {
			return err
		}
		if back, err := io.ReadAll(conn); err != nil || string(back) != "ping" {
			return fmt.Errorf("the echo is %q, %v", back, err)
		}
		if err := g.Succeed(); err != nil {
			return err
		}
		gone, err := g.Get("/feed/")
		if err != nil {
			return err
		}
		return gone.Body.Close()
	}
	prepare := func(builder ports.SandboxBuilder) {
		if err := errors.Join(builder.AttachProxy("feed", feed), builder.AttachProxy("echo", echo)); err != nil {
			t.Fatal(err)
		}
	}
	task(t, script, prepare, func(t *testing.T, sandbox ports.Sandbox) {
		if result := wait(t, sandbox); !result.Success() {
			t.Errorf("the outcome is %+v", result.Outcome())
		}
		synctest.Wait()
		if n := len(ended); n != 1 {
			t.Errorf("the feed was called %d times: once, and not after the result, is right", n)
		}
	})
}

// boot boots a guest without an engine.
func boot(t *testing.T, handler http.HandlerFunc, script metaservicetest.Script) ports.Guest {
	t.Helper()
	guest, err := metaservicetest.NewMachine(script).Boot(t.Context(), ports.BootOptions{Handler: handler})
	if err != nil {
		t.Fatal(err)
	}
	return guest
}

func TestAHandlerThatPanicsBreaksTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guest := boot(t, func(http.ResponseWriter, *http.Request) { panic("a bug of the host's") },
			func(_ context.Context, g *metaservicetest.Guest) error {
				_, err := g.Execute()
				return err
			})
		<-guest.Done()
		if err := guest.Err(); err == nil || !strings.Contains(err.Error(), "a bug of the host's") {
			t.Errorf("the guest died of %v", err)
		}
		if err := guest.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A handler of a test may give up in the testing package's way, which ends its goroutine without a word.
func TestAHandlerThatExitsBreaksTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guest := boot(t, func(http.ResponseWriter, *http.Request) { runtime.Goexit() },
			func(ctx context.Context, g *metaservicetest.Guest) error {
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://host/", nil)
				if err != nil {
					return err
				}
				answer, err := g.RoundTrip(request)
				if err == nil {
					answer.Body.Close()
				}
				return err
			})
		<-guest.Done()
		if guest.Err() == nil {
			t.Error("the request was answered")
		}
		if err := guest.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Goroutines can't be killed, so that is told.
func TestAScriptThatDoesNotHeedItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := make(chan struct{})
		guest := boot(t, nil, func(context.Context, *metaservicetest.Guest) error {
			<-deaf
			return nil
		})
		hurry, cancel := context.WithCancel(t.Context())
		cancel()
		if err := guest.Stop(hurry); err == nil {
			t.Error("Stop returned as if all had ended")
		}
		close(deaf)
		if err := guest.Stop(t.Context()); err != nil {
			t.Errorf("Stop when it has ended: %v", err)
		}
	})
}

func TestNothingBeginsAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var guest *metaservicetest.Guest
		stopped := boot(t, func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") },
			func(ctx context.Context, g *metaservicetest.Guest) error {
				guest = g
				<-ctx.Done()
				return nil
			})
		synctest.Wait()
		if err := stopped.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := guest.Poll(); err == nil {
			t.Error("a guest that was stopped polls")
		}
		if _, err := guest.Get("/x"); err == nil {
			t.Error("a guest that was stopped asks for things")
		}
		guest.ServeActions(nil, nil)
		if err := guest.OpenLog().Close(); err == nil {
			t.Error("a guest that was stopped has a log")
		}
	})
}
