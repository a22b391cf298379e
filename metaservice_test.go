package metaservice_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The API that the ancestor's users know, name for name and argument for argument.
var (
	_ func(string) (metaservice.TemporaryStorage, error) = metaservice.NewTemporaryStorage

	_ func(*metaservice.MetaService, http.ResponseWriter, *http.Request)                                       = (*metaservice.MetaService).ServeHTTP
	_ func(*metaservice.MetaService, string) (io.ReadSeekCloser, error)                                        = (*metaservice.MetaService).GetArtifact
	_ func(*metaservice.MetaService, string) ([]string, error)                                                 = (*metaservice.MetaService).ListFolder
	_ func(*metaservice.MetaService, []string, bool) (metaservice.Shell, error)                                = (*metaservice.MetaService).ExecShell
	_ func(*metaservice.MetaService) error                                                                     = (*metaservice.MetaService).KillProcess
	_ func(*metaservice.MetaService)                                                                           = (*metaservice.MetaService).StopPollers
	_ func(*metaservice.MetaService, context.Context, net.Listener) error                                      = (*metaservice.MetaService).Serve
	_ func(*metaservice.MetaService, context.Context, string) (io.ReadSeekCloser, error)                       = (*metaservice.MetaService).Artifact
	_ func(*metaservice.MetaService, context.Context, string) (metaservice.Listing, error)                     = (*metaservice.MetaService).Folder
	_ func(*metaservice.MetaService, context.Context) error                                                    = (*metaservice.MetaService).Kill
	_ func(*metaservice.MetaService, context.Context, metaservice.ShellSpec) (metaservice.ShellSession, error) = (*metaservice.MetaService).Shell
	_ func(*metaservice.MetaService, context.Context) (metaservice.Outcome, error)                             = (*metaservice.MetaService).Outcome
	_ func(*metaservice.MetaService) <-chan struct{}                                                           = (*metaservice.MetaService).Lost
	_ func(*metaservice.MetaService) error                                                                     = (*metaservice.MetaService).Close
	_ func(metaservice.Limits) metaservice.Option                                                              = metaservice.WithLimits
	_ func(func(metaservice.Outcome)) metaservice.Option                                                       = metaservice.WithOutcome

	_ http.Handler = (*metaservice.MetaService)(nil)
	_ error        = (*metaservice.Error)(nil)
	_ error        = (*metaservice.LimitError)(nil)

	_ = metaservice.Action{ID: "", Type: "", Path: "", Command: []string(nil), TTY: false}
	_ = metaservice.Error{Code: metaservice.ErrorCodeInternalError, Message: ""}
	_ = metaservice.Execute{Env: map[string]string(nil), Command: []string(nil)}
	_ = metaservice.Files{Files: []string(nil), NotFound: false}
	_ = metaservice.Environment{TemporaryStorage: metaservice.TemporaryStorage(nil), Logger: (*slog.Logger)(nil)}
)

// A shell's methods, no more and no less: users have fakes of it.
var _ interface {
	StdinPipe() io.WriteCloser
	StdoutPipe() io.ReadCloser
	StderrPipe() io.ReadCloser
	SetSize(columns, rows uint16) error
	Abort() error
	Wait() (bool, error)
} = metaservice.Shell(nil)

// What a ShellSession has beside that.
var _ interface {
	metaservice.Shell
	Result(ctx context.Context) (metaservice.Result, error)
	Done() <-chan struct{}
} = metaservice.ShellSession(nil)

const _ time.Duration = metaservice.PollTimeout - 30*time.Second // a constant

func TestTheNamesOfTheAncestor(t *testing.T) {
	if metaservice.PollTimeout != 30*time.Second {
		t.Errorf("PollTimeout is %s", metaservice.PollTimeout)
	}
	for got, want := range map[string]string{
		string(metaservice.ErrorCodeMethodNotAllowed): "MethodNotAllowed",
		string(metaservice.ErrorCodeNoSuchEndPoint):   "NoSuchEndPoint",
		string(metaservice.ErrorCodeInternalError):    "InternalError",
		string(metaservice.ErrorCodeResourceConflict): "ResourceConflict",
		string(metaservice.ErrorCodeUnknownActionID):  "UnknownActionId",
		string(metaservice.ErrorCodeInvalidPayload):   "InvalidPayload",
	} {
		if got != want {
			t.Errorf("the code %s is %q on the wire", want, got)
		}
	}
	errs := []error{
		metaservice.ErrResourceNotFound, metaservice.ErrNonFatalInternalError, metaservice.ErrShellTerminated,
		metaservice.ErrShellAborted, metaservice.ErrSandboxTerminated, metaservice.ErrSandboxAborted,
		metaservice.ErrSandboxBuilderDiscarded, metaservice.ErrFeatureNotSupported, metaservice.ErrNamingConflict,
		metaservice.ErrHandlerInterrupt, metaservice.ErrMaxConcurrencyExceeded,
	}
	for i, err := range errs {
		for j, other := range errs {
			if errors.Is(err, other) != (i == j) {
				t.Errorf("%q and %q are taken for each other", err, other)
			}
		}
	}
}

// ask makes a request of a guest.
func ask(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// id polls, and returns the id of the action.
func id(h http.Handler) string {
	_, after, _ := strings.Cut(ask(h, "GET", "/engine/v1/poll", "").Body.String(), `{"id":"`)
	id, _, _ := strings.Cut(after, `"`)
	return id
}

// The zero Environment, and nil for whatever may be missing, run a task from its start to its end.
func TestNilWorks(t *testing.T) {
	for name, environment := range map[string]*metaservice.Environment{"nil": nil, "zero": {}} {
		t.Run(name, func(t *testing.T) {
			m := metaservice.New(nil, nil, nil, nil, environment)
			defer m.Close()
			if got := ask(m, "GET", "/engine/v1/execute", "").Body.String(); got != `{"env":{},"command":[]}` {
				t.Errorf("execute: %s", got)
			}
			if w := ask(m, "POST", "/engine/v1/log", "text"); w.Code != http.StatusOK {
				t.Errorf("log: %d %s", w.Code, w.Body)
			}
			got := make(chan error, 1)
			go func() {
				file, err := m.GetArtifact("/file")
				if err != nil {
					got <- err
					return
				}
				content, err := io.ReadAll(file)
				if err == nil && string(content) != "content" {
					err = fmt.Errorf("got %q", content)
				}
				got <- errors.Join(err, file.Close())
			}()
			if w := ask(m, "POST", "/engine/v1/reply?id="+id(m), "content"); w.Code != http.StatusOK {
				t.Errorf("reply: %d %s", w.Code, w.Body)
			}
			if err := <-got; err != nil {
				t.Error(err)
			}
			if w := ask(m, "PUT", "/engine/v1/success", ""); w.Code != http.StatusOK {
				t.Errorf("success: %d %s", w.Code, w.Body)
			}
			if outcome, err := m.Outcome(t.Context()); err != nil || !outcome.Succeeded() || outcome.Log.Bytes != 4 {
				t.Errorf("outcome: %+v, %v", outcome, err)
			}
		})
	}
}

// Old users compare with ==.
func TestTheOldFormsReturnNotFoundBare(t *testing.T) {
	m := metaservice.New([]string{"true"}, nil, nil, nil, nil)
	defer m.Close()
	got := make(chan error, 1)
	go func() {
		_, err := m.GetArtifact("/missing")
		got <- err
	}()
	ask(m, "POST", "/engine/v1/reply?id="+id(m), "", "X-Taskcluster-Worker-Error", "file-not-found")
	if err := <-got; err != metaservice.ErrResourceNotFound {
		t.Errorf("GetArtifact: %#v", err)
	}
	go func() {
		_, err := m.ListFolder("/missing")
		got <- err
	}()
	ask(m, "POST", "/engine/v1/reply?id="+id(m), `{"files":[],"notFound":true}`, "Content-Type", "application/json")
	if err := <-got; err != metaservice.ErrResourceNotFound {
		t.Errorf("ListFolder: %#v", err)
	}
	go func() {
		_, err := m.Artifact(t.Context(), "/missing")
		got <- err
	}()
	ask(m, "POST", "/engine/v1/reply?id="+id(m), "", "X-Taskcluster-Worker-Error", "file-not-found")
	if err := <-got; !errors.Is(err, metaservice.ErrResourceNotFound) || !strings.Contains(err.Error(), "/missing") {
		t.Errorf("Artifact: %v", err)
	}
}

// An internal error says what broke.
func TestInternalErrorsWrapTheirCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metaservice.New([]string{"true"}, nil, nil, nil, nil)
		defer m.Close()
		start := time.Now()
		_, err := m.ListFolder("/folder") // and no guest ever polls
		if !errors.Is(err, metaservice.ErrNonFatalInternalError) || !strings.Contains(err.Error(), "no guest polled") {
			t.Errorf("ListFolder: %v", err)
		}
		if took := time.Since(start); took != 90*time.Second {
			t.Errorf("three tries took %s", took)
		}
		start = time.Now()
		shell, err := m.ExecShell(nil, true)
		if shell != nil || !errors.Is(err, metaservice.ErrNonFatalInternalError) || !strings.Contains(err.Error(), "no guest polled") {
			t.Errorf("ExecShell: %v, %v", shell, err)
		}
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("one try took %s", took)
		}
		m.Close()
		if _, err := m.GetArtifact("/file"); !errors.Is(err, metaservice.ErrSandboxTerminated) {
			t.Errorf("after Close: %v", err)
		}
		if shell, err := m.ExecShell(nil, true); shell != nil || !errors.Is(err, metaservice.ErrSandboxTerminated) {
			t.Errorf("ExecShell after Close: %v, %v", shell, err)
		}
	})
}

// Both the old callback and the full form are told, whichever way they were given.
func TestTheCallbacksAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		m := metaservice.New([]string{"true"}, nil, nil,
			func(success bool) { told = append(told, fmt.Sprint(success)) }, &metaservice.Environment{},
			metaservice.WithOutcome(func(o metaservice.Outcome) { told = append(told, o.Status.String()) }))
		for range 3 {
			ask(m, "PUT", "/engine/v1/failed", "")
			ask(m, "PUT", "/engine/v1/success", "")
		}
		synctest.Wait()
		m.Close()
		if got := strings.Join(told, " "); got != "failed false" {
			t.Errorf("told %q", got)
		}
	})
}

func TestMistakesAreNamed(t *testing.T) {
	for name, test := range map[string]struct {
		command []string
		env     map[string]string
		limits  metaservice.Limits
		says    []string
	}{
		"command":     {command: []string{"a\x00"}, says: []string{"argument 0"}},
		"environment": {env: map[string]string{"A=B": "", "": ""}, says: []string{`"A=B"`, "without a name"}},
		"limits":      {limits: metaservice.Limits{Tries: -1, Hold: time.Minute}, says: []string{"Tries", "Hold"}},
		"more of it":  {command: []string{"\xff"}, limits: metaservice.Limits{Polls: -1}, says: []string{"not UTF-8", "Polls"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := metaservice.NewWithError(test.command, test.env, nil, nil, nil, metaservice.WithLimits(test.limits))
			if err == nil {
				t.Fatal("there is no error")
			}
			for _, word := range test.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error doesn't say %q: %v", word, err)
				}
			}
			defer func() {
				if p := fmt.Sprint(recover()); !strings.Contains(p, test.says[0]) {
					t.Errorf("New panics with %s", p)
				}
			}()
			metaservice.New(test.command, test.env, nil, nil, nil, metaservice.WithLimits(test.limits))
		})
	}
}

// A storage that can't be is told where it is asked for, and when the first file is wanted.
func TestAStorageThatCantBe(t *testing.T) {
	if _, err := metaservice.NewTemporaryStorage(t.TempDir() + "/missing"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("the storage: %v", err)
	}
}

// guest is a guest of version 1 in a few lines: it runs a task that has one file, until the host ends.
func guest(address string) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	call := func(method, path, body string) string {
		r, err := http.NewRequest(method, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			return ""
		}
		response, err := client.Do(r)
		if err != nil {
			return ""
		}
		defer response.Body.Close()
		answer, _ := io.ReadAll(response.Body)
		return string(answer)
	}
	call("POST", "/engine/v1/log", "asked to run "+call("GET", "/engine/v1/execute", "")+"\n")
	call("PUT", "/engine/v1/success", "")
	for {
		answer := call("GET", "/engine/v1/poll", "")
		_, after, ok := strings.Cut(answer, `{"id":"`)
		if !ok {
			return
		}
		id, _, _ := strings.Cut(after, `"`)
		call("POST", "/engine/v1/reply?id="+id, "the file's content")
	}
}

// A task is run by whoever can reach the listener: in a virtual machine it stands at 169.254.169.254.
func Example() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	var log strings.Builder
	service := metaservice.New([]string{"make", "test"}, map[string]string{"CI": "1"}, &log, nil, nil)
	defer service.Close()

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { service.Serve(ctx, listener) })
	running.Go(func() { guest(listener.Addr().String()) })

	outcome, err := service.Outcome(ctx)
	cancel()
	running.Wait()
	fmt.Print(log.String())
	fmt.Println("succeeded:", outcome.Succeeded(), err)
	// Output:
	// asked to run {"env":{"CI":"1"},"command":["make","test"]}
	// succeeded: true <nil>
}

// An artifact is whole when it is returned, and gone once it is closed.
func ExampleMetaService_GetArtifact() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	service := metaservice.New([]string{"make"}, nil, nil, nil, nil)
	defer service.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { service.Serve(ctx, listener) })
	running.Go(func() { guest(listener.Addr().String()) })
	defer running.Wait()
	defer cancel()

	file, err := service.GetArtifact("/home/user/result.txt")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	fmt.Printf("%s, %v\n", content, err)
	// Output:
	// the file's content, <nil>
}
