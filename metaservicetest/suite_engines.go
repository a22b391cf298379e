package metaservicetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

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
