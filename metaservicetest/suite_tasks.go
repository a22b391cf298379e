package metaservicetest

import (
	"context"
	"errors"
	"io"
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
	task.IgnoreKill = 3 * time.Second
	sandbox, log := s.start(s.engine(EngineOptions{}), task)
	log.await(s, ready)
	before := time.Now()
	if err := sandbox.Kill(); err != nil {
		s.Errorf("Kill: %v", err)
	}
	if took := time.Since(before); took >= task.IgnoreKill {
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
