package metaservicetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// ready is what tasks print that go on until they are killed.
const ready = "ready"

var untilKilled = EngineTask{Behaviour: Behaviour{Print: ready, UntilKilled: true}}

func (s *suite) success() {
	result, log := s.run(EngineTask{Behaviour: Behaviour{Print: "hello"}})
	s.ended(result, domain.StatusSuccess)
	outcome := result.Outcome()
	if outcome.Err != nil || !outcome.Log.Complete() || outcome.Log.Bytes != int64(len("hello")) || log.String() != "hello" {
		s.Errorf("the outcome is %+v, the log %q", outcome, log)
	}
	if report := outcome.Report(); report != nil && !report.Succeeded() {
		s.Errorf("a success is reported as %s", report)
	}
	s.disposeResult(result)
}

func (s *suite) failure() {
	result, _ := s.run(EngineTask{Behaviour: Behaviour{ExitCode: 7}})
	s.ended(result, domain.StatusFailed)
	report := result.Outcome().Report()
	if report == nil || report.ExitCode != 7 || report.Reason != domain.ReasonExited {
		s.Errorf("exit code 7 is reported as %v", report)
	}
	s.disposeResult(result)
}

func (s *suite) logExact() {
	text := "a line\nünï\t\x1b[31m '\"\\ %s $HOME `x`\r\n\n"
	const times = 3000
	result, log := s.run(EngineTask{Behaviour: Behaviour{Print: text, Times: times}})
	if want := strings.Repeat(text, times); log.String() != want {
		s.Errorf("the log has %d bytes, %d were printed; it begins with %.100q", len(log.String()), len(want), log)
	}
	if summary := result.Outcome().Log; summary.Bytes != int64(len(text)*times) || !summary.Complete() {
		s.Errorf("the log's account is %+v", summary)
	}
	s.disposeResult(result)
}

func (s *suite) noLog() {
	sandbox := s.startBuilder(s.builder(s.engine(EngineOptions{}), EngineTask{Behaviour: Behaviour{Print: "lost"}}, nil))
	result, err := sandbox.WaitForResult(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	s.ended(result, domain.StatusSuccess)
	s.disposeResult(result)
}

func (s *suite) environment() {
	task := EngineTask{
		Behaviour: Behaviour{Env: []string{"FROM_PAYLOAD", "FROM_BUILDER"}},
		SetEnv:    map[string]string{"FROM_PAYLOAD": "one = 1"},
	}
	log := newEngineLog(s.T)
	builder := s.builder(s.engine(EngineOptions{}), task, log)
	if err := builder.SetEnvironmentVariable("FROM_BUILDER", "ünï 'two'"); err != nil {
		s.Errorf("SetEnvironmentVariable: %v", err)
	}
	s.is("a variable of the payload", builder.SetEnvironmentVariable("FROM_PAYLOAD", "2"), domain.ErrNamingConflict)
	s.is("a variable that is set twice", builder.SetEnvironmentVariable("FROM_BUILDER", "3"), domain.ErrNamingConflict)
	s.is("a variable without a name", builder.SetEnvironmentVariable("", "x"), domain.ErrInvalidExecute)
	s.is("a name with =", builder.SetEnvironmentVariable("A=B", "x"), domain.ErrInvalidExecute)
	s.is("a value with NUL", builder.SetEnvironmentVariable("A", "\x00"), domain.ErrInvalidExecute)
	result := s.result(s.startBuilder(builder), log)
	if want := "FROM_PAYLOAD=one = 1\nFROM_BUILDER=ünï 'two'\n"; log.String() != want {
		s.Errorf("the task saw %q, want %q", log, want)
	}
	s.disposeResult(result)
}

func (s *suite) artifacts() {
	want := []string{"out/x", "logs"}
	builder := s.builder(s.engine(EngineOptions{}), EngineTask{Artifacts: want}, nil)
	if got := builder.Artifacts(); !slices.Equal(got, want) {
		s.Errorf("the artifacts are %q, want %q", got, want)
	}
	if err := builder.Discard(); err != nil {
		s.Error(err)
	}
}

func (s *suite) kill() {
	task := untilKilled
	task.Files = map[string]string{"out/x": "content"}
	sandbox, log := s.start(s.engine(EngineOptions{}), task)
	log.await(s, ready)
	for range 2 {
		if err := sandbox.Kill(); err != nil && !errors.Is(err, domain.ErrSandboxTerminated) {
			s.Errorf("Kill: %v", err)
		}
	}
	result := s.result(sandbox, log)
	s.ended(result, domain.StatusKilled)
	s.content(result, "out/x", "content")
	s.is("Kill after the end", sandbox.Kill(), domain.ErrSandboxTerminated)
	s.disposeResult(result)
}

func (s *suite) killIgnored() {
	task := untilKilled
	task.IgnoreKill = time.Second
	sandbox, log := s.start(s.engine(EngineOptions{}), task)
	log.await(s, ready)
	before := time.Now()
	if err := sandbox.Kill(); err != nil {
		s.Errorf("Kill: %v", err)
	}
	if took := time.Since(before); took > task.IgnoreKill/2 {
		s.Errorf("Kill took %s: it waited for the guest", took)
	}
	result := s.result(sandbox, log)
	s.ended(result, domain.StatusKilled)
	s.disposeResult(result)
}

// afterAbort is what holds from Abort on.
func (s *suite) afterAbort(sandbox ports.Sandbox) {
	s.Helper()
	_, err := sandbox.WaitForResult(s.ctx)
	s.is("WaitForResult after Abort", err, domain.ErrSandboxAborted)
	_, err = sandbox.NewShell(s.ctx, nil, false)
	s.is("NewShell after Abort", err, domain.ErrSandboxAborted)
	s.is("Kill after Abort", sandbox.Kill(), domain.ErrSandboxAborted)
	s.is("a second Abort", sandbox.Abort(), domain.ErrSandboxAborted)
}

func (s *suite) abort() {
	engine := s.engine(EngineOptions{MaxConcurrency: 1})
	sandbox, log := s.start(engine, untilKilled)
	log.await(s, ready)
	if err := sandbox.Abort(); err != nil {
		s.Errorf("Abort: %v", err)
	}
	log.end()
	s.afterAbort(sandbox)
	// Its place is free: Abort returns when all is released.
	sandbox, _ = s.start(engine, untilKilled)
	if err := sandbox.Abort(); err != nil { // before the guest has called, most likely
		s.Errorf("Abort at the start: %v", err)
	}
	s.afterAbort(sandbox)
}

func (s *suite) abortAmidWait() {
	sandbox, log := s.start(s.engine(EngineOptions{}), untilKilled)
	log.await(s, ready)
	waited := make(chan error, 1)
	go func() {
		_, err := sandbox.WaitForResult(s.ctx)
		waited <- err
	}()
	if err := sandbox.Kill(); err != nil {
		s.Errorf("Kill: %v", err)
	}
	if err := sandbox.Abort(); errors.Is(err, domain.ErrSandboxTerminated) { // the kill was quicker
		if err := <-waited; err != nil {
			s.Errorf("WaitForResult of one that was killed: %v", err)
		}
		return
	} else if err != nil {
		s.Errorf("Abort after Kill: %v", err)
	}
	s.is("WaitForResult that was waiting", <-waited, domain.ErrSandboxAborted)
	s.afterAbort(sandbox)
}

func (s *suite) tooLate() {
	sandbox, log := s.start(s.engine(EngineOptions{}), EngineTask{Behaviour: Behaviour{Files: map[string]string{"x": "1"}}})
	result := s.result(sandbox, log)
	after := func(when string) {
		s.is("Kill after "+when, sandbox.Kill(), domain.ErrSandboxTerminated)
		s.is("Abort after "+when, sandbox.Abort(), domain.ErrSandboxTerminated)
		_, err := sandbox.NewShell(s.ctx, nil, false)
		s.is("NewShell after "+when, err, domain.ErrSandboxTerminated)
	}
	after("the end")
	s.content(result, "x", "1") // they changed nothing
	s.ended(result, domain.StatusSuccess)
	s.disposeResult(result)
	after("Dispose")
	_, err := sandbox.WaitForResult(s.ctx)
	s.is("WaitForResult after Dispose", err, domain.ErrSandboxTerminated)
	_, err = result.ExtractFile(s.ctx, "x")
	s.is("ExtractFile after Dispose", err, domain.ErrSandboxTerminated)
	err = result.ExtractFolder(s.ctx, ".", func(string, io.ReadSeeker) error { return nil })
	s.is("ExtractFolder after Dispose", err, domain.ErrSandboxTerminated)
	s.ended(result, domain.StatusSuccess) // which needs no guest
}

func (s *suite) severalWait() {
	sandbox, log := s.start(s.engine(EngineOptions{}), untilKilled)
	log.await(s, ready)
	enough := errors.New("waited long enough")
	impatient, giveUp := context.WithCancelCause(s.ctx)
	giveUp(enough)
	_, err := sandbox.WaitForResult(impatient)
	s.is("a wait that is given up", err, enough)

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			result, err := sandbox.WaitForResult(s.ctx)
			if err != nil {
				s.Errorf("WaitForResult: %v", err)
				return
			}
			s.ended(result, domain.StatusKilled)
		})
	}
	if err := sandbox.Kill(); err != nil {
		s.Errorf("Kill: %v", err)
	}
	all.Wait()
	s.disposeResult(s.result(sandbox, log))
}

func (s *suite) timeout() {
	task := untilKilled
	task.Timeout = time.Second
	result, _ := s.run(task)
	s.ended(result, domain.StatusTimedOut)
	if result.Outcome().Err == nil {
		s.Error("nothing tells why it ended")
	}
	s.disposeResult(result)
}

func (s *suite) file() {
	long := strings.Repeat("0123456789abcdef", 5000)
	result, _ := s.run(EngineTask{Behaviour: Behaviour{
		Files:    map[string]string{"out/ünï code": "content", "out/empty": "", "long": long},
		ExitCode: 1, // files of a failed task are what one wants most
	}})
	s.content(result, "out/ünï code", "content")
	s.content(result, "out/empty", "")
	s.content(result, "long", long)
	for what, path := range map[string]string{
		"a file that isn't there": "out/none", "a file below a file": "long/x", "a folder": "out",
	} {
		file, err := result.ExtractFile(s.ctx, path)
		s.is(what, err, domain.ErrResourceNotFound)
		if file != nil {
			s.Errorf("%s: beside its error there is a file", what)
		}
	}
	s.content(result, "out/empty", "") // an error ends nothing
	s.disposeResult(result)
}

func (s *suite) folder() {
	files := map[string]string{"a": "1", "b c": "2", "deep/er/ü": "3", "deep/er/empty": ""}
	written := map[string]string{"beside": "not this one"}
	for name, content := range files {
		written["out/"+name] = content
	}
	result, _ := s.run(EngineTask{Behaviour: Behaviour{Files: written}})
	for _, path := range []string{"out", "out/", "./out"} {
		var mu sync.Mutex
		got := make(map[string]string)
		err := result.ExtractFolder(s.ctx, path, func(name string, file io.ReadSeeker) error {
			content, err := io.ReadAll(file)
			mu.Lock()
			defer mu.Unlock()
			if _, twice := got[name]; twice {
				return fmt.Errorf("%q came twice", name)
			}
			got[name] = string(content)
			return err
		})
		if err != nil || !maps.Equal(got, files) {
			s.Errorf("the folder %q came as %q, %v; want %q", path, got, err, files)
		}
	}
	unwanted := func(name string, _ io.ReadSeeker) error { return fmt.Errorf("%q came", name) }
	s.is("a folder that isn't there", result.ExtractFolder(s.ctx, "none", unwanted), domain.ErrResourceNotFound)
	s.is("a file as a folder", result.ExtractFolder(s.ctx, "out/a", unwanted), domain.ErrResourceNotFound)
	s.disposeResult(result)
}

// manyFiles is a task with so many files in out.
func manyFiles(n int) EngineTask {
	files := make(map[string]string)
	for i := range n {
		files[fmt.Sprintf("out/%d", i)] = "x"
	}
	return EngineTask{Behaviour: Behaviour{Files: files}}
}

func (s *suite) folderStops() {
	const n = 40
	result, _ := s.run(manyFiles(n))
	enough := errors.New("enough of it")
	var mu sync.Mutex
	calls := 0
	err := result.ExtractFolder(s.ctx, "out", func(string, io.ReadSeeker) error {
		mu.Lock()
		defer mu.Unlock()
		calls++
		return enough
	})
	s.is("a handler that stops", err, domain.ErrHandlerInterrupt)
	s.is("a handler that stops", err, enough)
	mu.Lock()
	if calls == 0 || calls >= n {
		s.Errorf("the handler stopped at once, and was called %d times for %d files", calls, n)
	}
	mu.Unlock()
	s.content(result, "out/0", "x") // the guest is there still
	s.disposeResult(result)
}

// folderAtOnce has the first handler wait for the second.
func (s *suite) folderAtOnce() {
	result, _ := s.run(manyFiles(8))
	entered := make(chan struct{}, 8)
	err := result.ExtractFolder(s.ctx, "out", func(string, io.ReadSeeker) error {
		entered <- struct{}{}
		for len(entered) < 2 {
			select {
			case <-s.ctx.Done():
				return errors.New("no other file came meanwhile")
			case <-time.After(time.Millisecond):
			}
		}
		return nil
	})
	if err != nil {
		s.Errorf("ExtractFolder: %v", err)
	}
	s.disposeResult(result)
}

func (s *suite) filesGivenUp() {
	result, _ := s.run(manyFiles(20))
	gone := errors.New("nobody wants it any more")
	ctx, cancel := context.WithCancelCause(s.ctx)
	err := result.ExtractFolder(ctx, "out", func(string, io.ReadSeeker) error {
		cancel(gone)
		return nil
	})
	s.is("a folder that is given up", err, gone)
	_, err = result.ExtractFile(ctx, "out/0")
	s.is("a file that is given up", err, gone)
	s.content(result, "out/0", "x")
	s.disposeResult(result)
}

// isOver checks that a builder does nothing any more.
func (s *suite) isOver(builder ports.SandboxBuilder) {
	s.Helper()
	want := domain.ErrSandboxBuilderDiscarded
	_, err := builder.StartSandbox(s.ctx)
	s.is("StartSandbox", err, want)
	s.is("Discard", builder.Discard(), want)
	s.is("SetEnvironmentVariable", builder.SetEnvironmentVariable("A", "1"), want)
	s.is("AttachProxy", builder.AttachProxy("a", http.NotFoundHandler()), want)
}

func (s *suite) discard() {
	engine := s.engine(EngineOptions{MaxConcurrency: 1})
	for range 2 { // its place is given back
		builder := s.builder(engine, untilKilled, nil)
		if err := builder.Discard(); err != nil {
			s.Errorf("Discard: %v", err)
		}
		s.isOver(builder)
	}
}

func (s *suite) startTwice() {
	log := newEngineLog(s.T)
	builder := s.builder(s.engine(EngineOptions{}), untilKilled, log)
	sandbox := s.startBuilder(builder)
	s.isOver(builder)
	log.await(s, ready)
	if err := sandbox.Abort(); err != nil {
		s.Errorf("Abort: %v", err)
	}
	s.isOver(builder)
}

func (s *suite) startEnded() {
	engine := s.engine(EngineOptions{MaxConcurrency: 1})
	gone := errors.New("nobody wants it any more")
	ctx, cancel := context.WithCancelCause(s.ctx)
	cancel(gone)
	for range 2 { // its place is given back
		builder := s.builder(engine, untilKilled, nil)
		sandbox, err := builder.StartSandbox(ctx)
		s.is("StartSandbox", err, gone)
		if sandbox != nil {
			s.Error("beside its error there is a sandbox")
		}
		s.isOver(builder)
	}
}

func (s *suite) malformed() {
	engine := s.engine(EngineOptions{MaxConcurrency: 1})
	payload := s.setup.Malformed
	if payload == nil {
		payload = []byte(`{"command": 1}`)
	}
	for _, payload := range [][]byte{payload, []byte(`{`), []byte(`[]`), []byte(`"x"`)} {
		builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: payload})
		if builder != nil {
			s.Errorf("beside its error there is a builder for %s", payload)
		}
		malformed, ok := errors.AsType[*ports.MalformedPayloadError](err)
		if !ok || len(malformed.Mistakes) == 0 {
			s.Errorf("the error of %s is %v", payload, err)
			continue
		}
		for _, mistake := range malformed.Mistakes {
			if mistake.Found == "" || mistake.Right == "" {
				s.Errorf("%s: the mistake is told as %+v", payload, mistake)
			}
		}
	}
	if err := s.builder(engine, untilKilled, nil).Discard(); err != nil { // none took a place
		s.Error(err)
	}
}

func (s *suite) concurrency() {
	engine := s.engine(EngineOptions{MaxConcurrency: 2})
	if got := engine.Capabilities().MaxConcurrency; got != 2 {
		s.Errorf("the engine's MaxConcurrency is %d, not 2", got)
	}
	full := func(when string) {
		s.Helper()
		builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: s.setup.Payload(untilKilled)})
		s.is(when, err, domain.ErrMaxConcurrencyExceeded)
		if builder != nil {
			s.Errorf("%s: beside its error there is a builder", when)
		}
	}
	discarded := s.builder(engine, untilKilled, nil)
	sandbox, log := s.start(engine, EngineTask{})
	full("a builder and a sandbox")
	result := s.result(sandbox, log)
	full("a builder and a result set")
	s.disposeResult(result)
	aborted, _ := s.start(engine, untilKilled)
	full("a builder and a second sandbox")
	if err := errors.Join(discarded.Discard(), aborted.Abort()); err != nil {
		s.Error(err)
	}
	a, b := s.builder(engine, untilKilled, nil), s.builder(engine, untilKilled, nil)
	full("two builders")
	if err := errors.Join(a.Discard(), b.Discard()); err != nil {
		s.Error(err)
	}
}

// shells is what holds of them whether or not an engine has any.
func (s *suite) shells() {
	engine := s.engine(EngineOptions{})
	if engine.Capabilities().Shells {
		return // they have a suite of their own
	}
	sandbox, log := s.start(engine, untilKilled)
	log.await(s, ready)
	_, err := sandbox.NewShell(s.ctx, nil, false)
	s.is("NewShell", err, domain.ErrFeatureNotSupported)
	if err := sandbox.Abort(); err != nil {
		s.Errorf("Abort: %v", err)
	}
}

func (s *suite) proxies() {
	engine := s.engine(EngineOptions{})
	log := newEngineLog(s.T)
	builder := s.builder(engine, EngineTask{Behaviour: Behaviour{Fetch: "/cache/a%2Fb/c?q=1%202"}}, log)
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s?%s", r.Method, r.URL.EscapedPath(), r.URL.RawQuery)
	})
	if !engine.Capabilities().Proxies {
		s.is("AttachProxy", builder.AttachProxy("cache", echo), domain.ErrFeatureNotSupported)
		if err := builder.Discard(); err != nil {
			s.Error(err)
		}
		return
	}
	if err := builder.AttachProxy("cache", echo); err != nil {
		s.Fatalf("AttachProxy: %v", err)
	}
	s.is("a name that is taken", builder.AttachProxy("cache", echo), domain.ErrNamingConflict)
	s.is("the protocol's own name", builder.AttachProxy("engine", echo), domain.ErrNamingConflict)
	for _, name := range []string{"", "a/b", "a b", "..", "ü", strings.Repeat("x", domain.MaxProxyName+1)} {
		s.is(fmt.Sprintf("the name %q", name), builder.AttachProxy(name, echo), domain.ErrInvalidProxyName)
	}
	if !s.setup.Fetches {
		if err := builder.Discard(); err != nil {
			s.Error(err)
		}
		return
	}
	result := s.result(s.startBuilder(builder), log)
	s.ended(result, domain.StatusSuccess)
	if want := "GET /a%2Fb/c?q=1%202"; log.String() != want {
		s.Errorf("the proxy answered %q, want %q", log, want)
	}
	s.disposeResult(result)
}

func (s *suite) dispose() {
	engine := s.engine(EngineOptions{})
	waiting := s.builder(engine, untilKilled, nil)
	ended, endedLog := s.start(engine, EngineTask{Behaviour: Behaviour{Files: map[string]string{"x": "1"}}})
	result := s.result(ended, endedLog)
	var running []ports.Sandbox
	for i := range 3 {
		sandbox, log := s.start(engine, untilKilled)
		if i > 0 { // the first may not have called yet
			log.await(s, ready)
		}
		running = append(running, sandbox)
	}
	for range 2 {
		if err := engine.Dispose(s.ctx); err != nil {
			s.Errorf("Dispose: %v", err)
		}
	}
	for _, sandbox := range running {
		s.afterAbort(sandbox)
	}
	_, err := result.ExtractFile(s.ctx, "x")
	s.is("ExtractFile after the engine's Dispose", err, domain.ErrSandboxTerminated)
	_, err = ended.WaitForResult(s.ctx)
	s.is("WaitForResult after the engine's Dispose", err, domain.ErrSandboxTerminated)
	s.disposeResult(result)
	_, err = engine.NewSandboxBuilder(ports.SandboxOptions{Payload: s.setup.Payload(untilKilled)})
	s.is("NewSandboxBuilder after Dispose", err, domain.ErrSandboxTerminated)
	_, err = waiting.StartSandbox(s.ctx)
	s.is("StartSandbox after the engine's Dispose", err, domain.ErrSandboxTerminated)
}
