//go:build unix

package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
)

// station is an address at which hosts come and go.
type station struct {
	*testing.T
	address string
	service *metaservice.MetaService
	log     *sink
	told    chan bool
	stop    func()
}

// newStation has a first host at it, whose task is a script.
func newStation(t *testing.T, script string) *station {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &station{T: t, address: listener.Addr().String()}
	listener.Close()
	s.renew(script)
	s.open()
	t.Cleanup(func() {
		s.stop()
		s.service.Close()
	})
	return s
}

// renew has another host, which knows nothing of the one before.
func (s *station) renew(script string) {
	if s.service != nil {
		s.service.Close()
	}
	s.log, s.told = newSink(), make(chan bool, 10)
	told := s.told
	s.service = metaservice.New([]string{"sh", "-c", script}, nil, s.log, func(success bool) { told <- success }, nil)
}

// open serves the host.
func (s *station) open() {
	s.Helper()
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	service := s.service
	go func() { served <- service.Serve(ctx, listener) }()
	s.stop = func() {
		cancel()
		if err := <-served; err != nil {
			s.Errorf("Serve: %v", err)
		}
	}
}

// guestTools starts the real ones in a folder, until the test ends.
func (s *station) guestTools(folder string) *exec.Cmd {
	s.Helper()
	cmd := exec.Command(tool(s.T, "guest-tools"), "--host", s.address)
	cmd.Dir = folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	words := newSink()
	cmd.Stderr = words
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("guest-tools said:\n%s", words)
		}
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return cmd
}

func (s *station) outcome() domain.Outcome {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 2*callTime)
	defer cancel()
	outcome, err := s.service.Outcome(ctx)
	if err != nil {
		s.Fatalf("the task has no outcome: %v", err)
	}
	return outcome
}

// file sees that the guest serves its host.
func (s *station) file(path, want string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 2*callTime)
	defer cancel()
	if got := fetch(ctx, s.service, path); got.err != nil || string(got.content) != want {
		s.Errorf("%s is %q, %v; want %q", path, got.content, got.err, want)
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

const untilGo = `while [ ! -e go ]; do sleep 0.02; done; `

// A host that goes away amid a task and comes back: the task runs on, once, and what it says then is in the
// log. Of a log whose connection broke nobody knows in version 1 whether the host had all of it: that is no
// success, and told. Only where no log had come to the host at all there is nothing to doubt.
func TestHostThatRestartsAmidATask(t *testing.T) {
	for name, first := range map[string]string{"silent": "", "begun": "one\n"} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			s := newStation(t, fmt.Sprintf("printf '%s'; echo run >>runs; %s echo two", first, untilGo))
			s.guestTools(folder)
			eventually(t, "the task doesn't begin", func() bool {
				_, err := os.Stat(filepath.Join(folder, "runs"))
				return err == nil && s.log.String() == first
			})
			s.stop()
			s.open()
			touch(t, filepath.Join(folder, "go"))
			outcome, log := s.outcome(), s.log.String()
			if <-s.told != outcome.Succeeded() || len(s.told) > 0 {
				t.Error("I3: the callback was told something else, or twice")
			}
			if want := first + "two\n"; log != want {
				t.Errorf("I1: the log is %q, want %q", log, want)
			}
			if outcome.Succeeded() && first != "" {
				t.Errorf("the task, which had said %q, ended as %s, %v, %v", first, outcome.Status, outcome.Err, outcome.Report())
			}
			if !outcome.Succeeded() && !errors.Is(outcome.Err, domain.ErrLogIncomplete) && !strings.Contains(outcome.Report().Message, "the log was not delivered whole") {
				t.Errorf("nobody tells that the log broke: %v, %v", outcome.Err, outcome.Report())
			}
			s.file("runs", "run\n")
		})
	}
}

// Another host at the same address has asked for another task: it doesn't take this one's end for its own,
// and is served all the same.
func TestHostThatIsReplacedAmidATask(t *testing.T) {
	folder := t.TempDir()
	s := newStation(t, "echo one; echo run >>runs; "+untilGo+"echo two")
	s.guestTools(folder)
	eventually(t, "the task doesn't begin", func() bool {
		_, err := os.Stat(filepath.Join(folder, "runs"))
		return err == nil && s.log.String() == "one\n"
	})
	first := s.service
	s.stop()
	s.renew("echo this is never run")
	s.open()
	if _, err := first.Outcome(t.Context()); !errors.Is(err, metaservice.ErrSandboxTerminated) {
		t.Errorf("the first host's outcome: %v", err)
	}
	s.file("runs", "run\n") // so it has said hello
	touch(t, filepath.Join(folder, "go"))
	outcome := s.outcome()
	if outcome.Succeeded() || !errors.Is(outcome.Err, domain.ErrForeignResult) {
		t.Errorf("%s, %v", outcome.Status, outcome.Err)
	}
	if got := s.log.String(); got != "two\n" {
		t.Errorf("the log is %q", got)
	}
	s.file("runs", "run\n")
}

// guest-tools that are killed and started again, in the same boot: a task without a result is run anew, even
// where the first run lives on (in a cgroup it does, as package processes says). Its log broke off, which is
// no success.
func TestGuestToolsThatRestartAmidATask(t *testing.T) {
	folder := t.TempDir()
	s := newStation(t, "echo run >>runs; echo one; "+untilGo+"echo two; echo end >>runs")
	tools := s.guestTools(folder)
	eventually(t, "the task doesn't begin", func() bool { return s.log.String() == "one\n" })
	if err := tools.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	tools.Wait()
	s.guestTools(folder)
	eventually(t, "the task isn't run anew", func() bool { return s.log.String() == "one\none\n" })
	touch(t, filepath.Join(folder, "go"))
	outcome := s.outcome()
	if outcome.Succeeded() || !errors.Is(outcome.Err, domain.ErrLogIncomplete) || <-s.told || len(s.told) > 0 {
		t.Errorf("%s, %v", outcome.Status, outcome.Err)
	}
	eventually(t, "it isn't run twice, each to its end or killed", func() bool {
		runs, err := os.ReadFile(filepath.Join(folder, "runs"))
		return err == nil && strings.HasPrefix(string(runs), "run\nrun\nend\n")
	})
}

// A guest that reboots amid a task is another boot, of which the same holds.
func TestGuestThatRebootsAmidATask(t *testing.T) {
	leakless(t)
	s := newScene(t, setting{limits: limits})
	<-s.log.begun
	s.proxy.Sever() // the power fails
	for _, err := range s.member.leave() {
		t.Error(err)
	}
	finish := make(chan struct{})
	m, err := s.join(guestFolder(t), "another boot", false, Programs{Task: task(finish, 0), Shell: chatter})
	if err != nil {
		t.Fatal(err)
	}
	s.member, s.finish = m, finish
	s.works()
	close(finish)
	outcome, err := s.outcomeIn(callTime)
	if err != nil || outcome.Succeeded() || !errors.Is(outcome.Err, domain.ErrLogIncomplete) || <-s.told || len(s.told) > 0 {
		t.Errorf("%s, %v, %v", outcome.Status, outcome.Err, err)
	}
	executes := 0
	for _, a := range s.tape.all() {
		if strings.HasSuffix(a.path, "/execute") {
			executes++
		}
	}
	if executes != 2 {
		t.Errorf("the task was asked for %d times", executes)
	}
}
