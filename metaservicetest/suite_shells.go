package metaservicetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// shell is a test of shells: it returns at once where the engine has none, and is told so.
func shell(test func(*suite, ports.Engine)) func(*suite) {
	return func(s *suite) {
		engine := s.engine(EngineOptions{})
		if engine.Capabilities().Shells {
			test(s, engine)
			return
		}
		sandbox, log := s.start(engine, untilKilled)
		log.await(s, ready)
		_, err := sandbox.NewShell(s.ctx, nil, false)
		s.is("NewShell", err, domain.ErrFeatureNotSupported)
		_, err = sandbox.OpenShell(s.ctx, domain.ShellSpec{})
		s.is("OpenShell", err, domain.ErrFeatureNotSupported)
		if err := sandbox.Abort(); err != nil {
			s.Errorf("Abort: %v", err)
		}
	}
}

// open opens a shell.
func (s *suite) open(sandbox ports.Sandbox, behaviour ShellBehaviour) ports.ShellSession {
	s.Helper()
	session, err := sandbox.OpenShell(s.ctx, domain.ShellSpec{Command: s.shellCommand(behaviour)})
	if err != nil {
		s.Fatalf("OpenShell: %v", err)
	}
	return session
}

func (s *suite) shellCommand(behaviour ShellBehaviour) []string {
	if s.setup.Shell != nil {
		return s.setup.Shell(behaviour)
	}
	return behaviour.Shell()
}

// outputs reads both to their ends.
func (s *suite) outputs(shell ports.Shell) (stdout, stderr string) {
	s.Helper()
	var read sync.WaitGroup
	for to, from := range map[*string]io.Reader{&stdout: shell.StdoutPipe(), &stderr: shell.StderrPipe()} {
		read.Go(func() {
			got, err := io.ReadAll(from)
			if err != nil {
				s.Errorf("an output ended by %v", err)
			}
			*to = string(got)
		})
	}
	read.Wait()
	return stdout, stderr
}

// await reads text off an output.
func (s *suite) await(from io.Reader, text string) {
	s.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(from, got); err != nil || string(got) != text {
		s.Fatalf("the shell said %q, %v; it should have said %q", got[:n], err, text)
	}
}

// killed ends a task by Kill.
func (s *suite) killed(sandbox ports.Sandbox, log *engineLog) {
	s.Helper()
	if err := sandbox.Kill(); err != nil {
		s.Errorf("Kill: %v", err)
	}
	result := s.result(sandbox, log)
	s.ended(result, domain.StatusKilled)
	s.disposeResult(result)
}

func (s *suite) shellExits(engine ports.Engine) {
	sandbox, log := s.start(engine, untilKilled)
	for code, behaviour := range []ShellBehaviour{
		{Print: "out", PrintErr: "ünï 'err'"},
		{Print: strings.Repeat("x", 100_000)},
		{PrintErr: "why"},
		{},
	} {
		behaviour.ExitCode = code
		session := s.open(sandbox, behaviour)
		stdout, stderr := s.outputs(session)
		if stdout != behaviour.Print || stderr != behaviour.PrintErr {
			s.Errorf("the shell said %.100q and %.100q, it should have said %.100q and %.100q", stdout, stderr, behaviour.Print, behaviour.PrintErr)
		}
		result, err := session.Result(s.ctx)
		if err != nil || result.Success != (code == 0) {
			s.Errorf("exit code %d is told as %+v, %v", code, result, err)
		}
		if report := result.Report; report != nil && (report.ExitCode != code || report.Reason != domain.ReasonExited) {
			s.Errorf("exit code %d is reported as %s", code, report)
		}
		for range 2 {
			if success, err := session.Wait(); err != nil || success != (code == 0) {
				s.Errorf("Wait: %v, %v", success, err)
			}
		}
		<-session.Done()
		s.is("Abort of a shell that has ended", session.Abort(), domain.ErrShellTerminated)
		s.is("SetSize without a terminal", session.SetSize(80, 24), domain.ErrFeatureNotSupported)
		_, err = session.StdinPipe().Write([]byte("x"))
		s.is("a Write to a shell that has ended", err, domain.ErrShellTerminated)
	}
	session, err := sandbox.NewShell(s.ctx, []string{"/no/such/command"}, false)
	if err != nil {
		s.Fatalf("NewShell: %v", err)
	}
	_, stderr := s.outputs(session)
	if success, err := session.Wait(); success || err != nil || stderr == "" {
		s.Errorf("a command that doesn't exist: %v, %v; it said %q", success, err, stderr)
	}
	s.killed(sandbox, log)
}

func (s *suite) shellEcho(engine ports.Engine) {
	sandbox, log := s.start(engine, untilKilled)
	sent := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(sent)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			session, err := sandbox.OpenShell(s.ctx, domain.ShellSpec{Command: s.shellCommand(ShellBehaviour{Echo: true, ExitCode: 3})})
			if err != nil {
				s.Errorf("OpenShell: %v", err)
				return
			}
			all.Go(func() {
				stdin := session.StdinPipe()
				n, err := stdin.Write(sent)
				if err = errors.Join(err, stdin.Close()); err != nil {
					s.Errorf("after %d of %d bytes: %v", n, len(sent), err)
				}
			})
			stdout, stderr := s.outputs(session)
			if stdout != string(sent) || stderr != "" {
				s.Errorf("of %d bytes %d came back, equal: %v, and %q", len(sent), len(stdout), stdout == string(sent), stderr)
			}
			if success, err := session.Wait(); success || err != nil {
				s.Errorf("Wait: %v, %v", success, err)
			}
		})
	}
	all.Wait()
	s.killed(sandbox, log)
}

func (s *suite) shellAbort(engine ports.Engine) {
	sandbox, log := s.start(engine, untilKilled)
	aborted, other := s.open(sandbox, ShellBehaviour{Print: ready, UntilAborted: true}), s.open(sandbox, ShellBehaviour{Print: ready, Echo: true})
	for _, session := range []ports.ShellSession{aborted, other} {
		s.await(session.StdoutPipe(), ready)
	}
	if err := aborted.Abort(); err != nil {
		s.Errorf("Abort: %v", err)
	}
	s.is("a second Abort", aborted.Abort(), domain.ErrShellAborted)
	s.wasAborted(aborted)
	_, err := aborted.StdinPipe().Write([]byte("x"))
	s.is("a Write to a shell that was aborted", err, domain.ErrShellAborted)
	// Neither the other shell nor the task has noticed.
	if _, err := other.StdinPipe().Write([]byte("still there")); err != nil {
		s.Error(err)
	}
	s.await(other.StdoutPipe(), "still there")
	if err := other.StdinPipe().Close(); err != nil {
		s.Error(err)
	}
	if success, err := other.Wait(); !success || err != nil {
		s.Errorf("the other shell: %v, %v", success, err)
	}
	s.killed(sandbox, log)
}

func (s *suite) wasAborted(session ports.ShellSession) {
	s.Helper()
	_, err := session.Wait()
	s.is("Wait", err, domain.ErrShellAborted)
	_, err = session.Result(s.ctx)
	s.is("Result", err, domain.ErrShellAborted)
	_, err = io.ReadAll(session.StdoutPipe())
	s.is("what reads the output", err, domain.ErrShellAborted)
}

// shellSpec has a guest do what an exec-shell of version 1 can't ask for. The guest may be one of those.
func (s *suite) shellSpec(engine ports.Engine) {
	sandbox, log := s.start(engine, untilKilled)
	spec := domain.ShellSpec{
		Command: s.shellCommand(ShellBehaviour{Env: []string{"FOR_SHELL"}, Echo: true}),
		Env:     map[string]string{"FOR_SHELL": "ünï 'one' = 1"}, NoStdin: true,
	}
	session, err := sandbox.OpenShell(s.ctx, spec)
	if !errors.Is(err, domain.ErrFeatureNotSupported) {
		if err != nil {
			s.Fatalf("OpenShell: %v", err)
		}
		stdout, _ := s.outputs(session)
		if success, err := session.Wait(); !success || err != nil || stdout != "FOR_SHELL=ünï 'one' = 1\n" {
			s.Errorf("%v, %v; it said %q", success, err, stdout)
		}
	}
	spec = domain.ShellSpec{Command: s.shellCommand(ShellBehaviour{UntilAborted: true}), Timeout: 500 * time.Millisecond}
	session, err = sandbox.OpenShell(s.ctx, spec)
	if err != nil {
		s.Fatalf("OpenShell: %v", err)
	}
	result, err := session.Result(s.ctx)
	if err != nil || result.Success || result.Report == nil || result.Report.Reason != domain.ReasonTimeout {
		s.Errorf("a shell whose time is over is told as %+v, %v", result, err)
	}
	_, err = sandbox.OpenShell(s.ctx, domain.ShellSpec{Command: []string{"\x00"}})
	s.is("a spec that can't be", err, domain.ErrInvalidAction)
	gone := errors.New("nobody wants it any more")
	ctx, cancel := context.WithCancelCause(s.ctx)
	cancel(gone)
	_, err = sandbox.NewShell(ctx, nil, false)
	s.is("a start that is given up", err, gone)
	s.killed(sandbox, log)
}

// shellLingers has WaitForResult wait for shells, of which there may be more meanwhile.
func (s *suite) shellLingers(engine ports.Engine) {
	const over = "the task is over"
	sandbox, log := s.start(engine, EngineTask{Behaviour: Behaviour{UntilFile: "go", Then: over}})
	var closing atomic.Bool // the last shell is told to end
	waited := make(chan error, 1)
	go func() {
		_, err := sandbox.WaitForResult(s.ctx)
		if !closing.Load() {
			err = errors.Join(err, errors.New("there was a shell open"))
		}
		waited <- err
	}()
	first := s.open(sandbox, ShellBehaviour{Files: map[string]string{"go": ""}, Print: ready, Echo: true})
	s.await(first.StdoutPipe(), ready)
	log.await(s, over)
	last := first
	for i := range 3 {
		next := s.open(sandbox, ShellBehaviour{Print: fmt.Sprint(i), Echo: true})
		s.await(next.StdoutPipe(), fmt.Sprint(i))
		s.endShell(last)
		last = next
	}
	closing.Store(true)
	s.endShell(last)
	if err := <-waited; err != nil {
		s.Errorf("WaitForResult: %v", err)
	}
	result := s.result(sandbox, log)
	s.ended(result, domain.StatusSuccess)
	_, err := sandbox.NewShell(s.ctx, nil, false)
	s.is("NewShell after the end", err, domain.ErrSandboxTerminated)
	s.disposeResult(result)
}

// endShell ends one that echoes.
func (s *suite) endShell(session ports.ShellSession) {
	s.Helper()
	if err := session.StdinPipe().Close(); err != nil {
		s.Errorf("Close of the input: %v", err)
	}
	if rest, err := io.ReadAll(session.StdoutPipe()); err != nil || len(rest) > 0 {
		s.Errorf("at its end it said %q, %v", rest, err)
	}
	if success, err := session.Wait(); !success || err != nil {
		s.Errorf("Wait: %v, %v", success, err)
	}
}

func (s *suite) shellKill(engine ports.Engine) {
	sandbox, log := s.start(engine, untilKilled)
	log.await(s, ready)
	session := s.open(sandbox, ShellBehaviour{Print: ready, UntilAborted: true})
	s.await(session.StdoutPipe(), ready)
	if err := sandbox.Kill(); err != nil {
		s.Errorf("Kill: %v", err)
	}
	_, err := sandbox.NewShell(s.ctx, nil, false)
	s.is("NewShell after Kill", err, domain.ErrSandboxTerminated)
	s.wasAborted(session)
	result := s.result(sandbox, log)
	s.ended(result, domain.StatusKilled)
	s.disposeResult(result)
}

// shellKillLingering has a task killed that had its result: nobody had been told that.
func (s *suite) shellKillLingering(engine ports.Engine) {
	const over = "the task is over"
	sandbox, log := s.start(engine, EngineTask{Behaviour: Behaviour{UntilFile: "go", Then: over}})
	session := s.open(sandbox, ShellBehaviour{Files: map[string]string{"go": ""}, Print: ready, UntilAborted: true})
	s.await(session.StdoutPipe(), ready)
	log.await(s, over)
	s.killed(sandbox, log)
	s.wasAborted(session)
}

func (s *suite) shellSandboxAbort(engine ports.Engine) {
	sandbox, log := s.start(engine, untilKilled)
	log.await(s, ready)
	session := s.open(sandbox, ShellBehaviour{Print: ready, UntilAborted: true})
	s.await(session.StdoutPipe(), ready)
	if err := sandbox.Abort(); err != nil {
		s.Errorf("Abort: %v", err)
	}
	log.end()
	if success, err := session.Wait(); success || err == nil {
		s.Errorf("a shell of a sandbox that was aborted: %v, %v", success, err)
	}
	s.afterAbort(sandbox)
}
