package guest

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// shellWorld is a world in which one shell was asked for.
type shellWorld struct {
	*world
	shell   *fakeShell
	process *fakeShellProcess
	shells  *fakeShells
}

// withShell runs a test with a shell that was asked for as spec says. prepare may change the world before.
func withShell(t *testing.T, spec domain.ShellSpec, prepare func(*shellWorld), test func(*shellWorld)) {
	t.Helper()
	s := &shellWorld{}
	inBubble(t, func(w *world) {
		s.world, s.shell, s.process = w, newFakeShell(), newFakeShellProcess()
		s.shells = &fakeShells{process: s.process}
		w.config.Shells = s.shells
		w.host.shells = map[domain.ActionID]*fakeShell{"shell": s.shell}
		w.peer.Features = domain.Features{domain.FeatureResult, domain.FeatureExec, domain.FeatureShell2}
		prepare(s)
	}, func(*world) {
		s.offer(domain.ExecShell("shell", spec))
		test(s)
	})
}

func asAsked(*shellWorld) {}

func (s *shellWorld) send(text string) {
	s.Helper()
	if _, err := io.WriteString(s.shell.stdin, text); err != nil {
		s.Errorf("the host can't send: %v", err)
	}
}

// wantExit wants the host to have been told this end, and the process to be closed.
func (s *shellWorld) wantExit(want domain.Report) {
	s.Helper()
	synctest.Wait()
	if s.shell.report == nil {
		s.Fatalf("no exit was told, but %v", s.shell.saw())
	}
	s.same("the report", want, *s.shell.report)
	if !s.process.closed {
		s.Error("the process was not closed")
	}
}

var byGrace = domain.Report{ExitCode: 143, Signal: "SIGTERM", Reason: domain.ReasonKilled}

// A host that hears of the exit before the outputs' ends drops what is between them.
func TestShellEndsInOrder(t *testing.T) {
	withShell(t, domain.ShellSpec{Command: []string{"work"}}, asAsked, func(s *shellWorld) {
		s.same("the handshake", []string{"hello", "execute", "log", "shell shell true"}, s.host.saw("poll"))
		s.send("input")
		got := make([]byte, 5)
		io.ReadFull(s.process.stdin, got)
		s.same("the input", "input", string(got))
		io.WriteString(s.process.w, "out")
		io.WriteString(s.process.errW, "error")
		report := domain.Report{ExitCode: 3, Reason: domain.ReasonExited}
		s.process.exit(report)
		s.settle(time.Hour) // its child writes on
		s.same("before the outputs' ends", 0, len(s.shell.saw()))
		io.WriteString(s.process.w, " and the child's")
		s.process.endOutputs()
		synctest.Wait()
		saw := s.shell.saw()
		slices.Sort(saw[:2])
		s.same("what the host was told", []string{"stderr ended", "stdout ended", "exit 3 exited"}, saw)
		s.wantExit(report)
		s.same("standard output", "out and the child's", s.shell.stdout.String())
		s.same("standard error", "error", s.shell.stderr.String())
		s.same("kills", 0, len(s.process.kills))
	})
}

// The input's end is the process's to see; without a terminal nothing else comes of it.
func TestShellInputEnds(t *testing.T) {
	withShell(t, domain.ShellSpec{Command: []string{"work"}}, asAsked, func(s *shellWorld) {
		s.shell.stdin.Close()
		if got, err := io.ReadAll(s.process.stdin); len(got) > 0 || err != nil {
			s.Errorf("it reads %q, %v", got, err)
		}
		s.settle(time.Hour)
		s.same("kills", 0, len(s.process.kills))
		s.process.exit(success)
		s.process.endOutputs()
		s.wantExit(success)
	})
}

// What the process doesn't read is dropped, so that the host isn't held up, and the shell ends though its
// input is open.
func TestShellInputThatNobodyWants(t *testing.T) {
	withShell(t, domain.ShellSpec{Command: []string{"work"}}, asAsked, func(s *shellWorld) {
		s.process.stdin.CloseWithError(errors.New("broken pipe"))
		for range 100 {
			s.send("x")
		}
		s.process.exit(success)
		s.process.endOutputs()
		s.wantExit(success)
	})
}

// A command that took a broken connection for the end of its input would go on with half of it.
func TestShellInputThatBreaksOffIsNoEnd(t *testing.T) {
	withShell(t, domain.ShellSpec{Command: []string{"work"}}, asAsked, func(s *shellWorld) {
		go io.ReadAll(s.process.stdin)
		s.send("half")
		s.shell.stdin.CloseWithError(errors.New("connection reset"))
		s.settle(time.Second)
		s.same("what it saw before the end", 0, len(s.process.events))
		s.shell.over(errors.New("connection reset"))
		synctest.Wait()
		s.same("what it saw", []string{"killed"}, s.process.events)
		s.same("it is killed at once", []time.Duration{0}, s.process.kills)
	})
}

func TestShellWithoutInput(t *testing.T) {
	for _, tty := range []bool{false, true} {
		withShell(t, domain.ShellSpec{Command: []string{"work"}, NoStdin: true, TTY: tty}, asAsked, func(s *shellWorld) {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				io.ReadAll(s.process.stdin)
			}()
			s.settle(time.Second)
			select {
			case <-ended:
				if tty {
					s.Error("a terminal's input has ended, which hangs up")
				}
			default:
				if !tty {
					s.Error("its input is open")
				}
			}
			s.send("dropped")
			s.shell.stdin.Close()
			s.settle(time.Hour)
			s.same("kills", 0, len(s.process.kills))
			s.process.exit(success)
			s.process.endOutputs()
			s.wantExit(success)
			<-ended
		})
	}
}

// With a terminal, the end of the input is the end of the shell.
func TestShellHangsUp(t *testing.T) {
	withShell(t, domain.ShellSpec{TTY: true}, asAsked, func(s *shellWorld) {
		s.same("standard error ends first", []string{"stderr ended"}, s.shell.saw())
		s.shell.stdin.Close()
		synctest.Wait()
		s.same("what it saw", []string{"input ended", "killed"}, s.process.events)
		s.same("kills", []time.Duration{KillGrace}, s.process.kills)
		s.wantExit(byGrace)
	})
}

// A shell at a terminal ignores SIGTERM: a time-out hangs up first, or it would last for the whole grace.
func TestShellTimeoutHangsUp(t *testing.T) {
	withShell(t, domain.ShellSpec{TTY: true, Timeout: time.Minute}, asAsked, func(s *shellWorld) {
		<-s.shell.Done()
		s.same("what it saw", []string{"input ended", "killed"}, s.process.events)
	})
}

func TestShellTimeout(t *testing.T) {
	spec := domain.ShellSpec{Command: []string{"work"}, Timeout: time.Minute}
	withShell(t, spec, func(s *shellWorld) { s.process.dies = 3 * time.Second }, func(s *shellWorld) {
		start := time.Now()
		io.WriteString(s.process.w, "last words")
		<-s.shell.Done()
		s.same("time", time.Minute+3*time.Second, time.Since(start))
		s.same("kills", []time.Duration{KillGrace}, s.process.kills)
		timedOut := byGrace
		timedOut.Reason = domain.ReasonTimeout
		s.wantExit(timedOut)
		s.same("standard output", "last words", s.shell.stdout.String())
	})
	// A command that has ended in time has, though a child that holds its output has to be ended.
	withShell(t, spec, asAsked, func(s *shellWorld) {
		s.process.exit(success)
		<-s.shell.Done()
		s.same("kills", []time.Duration{KillGrace}, s.process.kills)
		s.wantExit(success)
	})
}

// A host that is gone, or aborts, ends the whole tree at once, however little of its output can be sent.
func TestShellWhoseHostIsGone(t *testing.T) {
	for _, why := range []error{domain.ErrShellAborted, errors.New("the connection ended")} {
		stalled := func(s *shellWorld) { s.shell.stdout.stall = true }
		withShell(t, domain.ShellSpec{Command: []string{"work"}}, stalled, func(s *shellWorld) {
			go s.process.w.Write([]byte("nobody reads this"))
			s.settle(time.Minute)
			start := time.Now()
			s.shell.over(why)
			synctest.Wait()
			s.same("time", time.Duration(0), time.Since(start))
			s.same("kills", []time.Duration{0}, s.process.kills)
			if !s.process.closed || s.shell.report != nil {
				s.Errorf("closed %v, exit %v", s.process.closed, s.shell.report)
			}
		})
	}
}

// The end of the guest is the shell's, and the host is told.
func TestShellWhoseGuestEnds(t *testing.T) {
	withShell(t, domain.ShellSpec{Command: []string{"work"}}, asAsked, func(s *shellWorld) {
		io.WriteString(s.process.w, "so far")
		start := time.Now()
		s.end()
		s.same("time", time.Duration(0), time.Since(start))
		s.wantExit(byGrace)
		s.same("standard output", "so far", s.shell.stdout.String())
	})
}

// A command that succeeded, and whose output could not be delivered before the guest ended, has not
// succeeded for its host: who gets a success has all of the output.
func TestShellWhoseGuestEndsBeforeItsOutputIsOut(t *testing.T) {
	stalled := func(s *shellWorld) { s.shell.stdout.stall = true }
	withShell(t, domain.ShellSpec{Command: []string{"work"}}, stalled, func(s *shellWorld) {
		go s.process.w.Write([]byte("nobody takes this"))
		s.process.exit(success)
		s.settle(time.Minute)
		start := time.Now()
		s.end()
		s.same("time", goodbye, time.Since(start))
		s.wantExit(domain.Report{ExitCode: 137, Reason: domain.ReasonKilled, Message: "its output was cut"})
	})
}

// A guest that is in a hurry doesn't wait for that either: a second signal leaves all the waiting out.
func TestShellWhoseGuestEndsInAHurry(t *testing.T) {
	stalled := func(s *shellWorld) { s.shell.stdout.stall = true }
	withShell(t, domain.ShellSpec{Command: []string{"work"}}, stalled, func(s *shellWorld) {
		go s.process.w.Write([]byte("nobody takes this"))
		s.settle(time.Minute)
		time.AfterFunc(time.Second, s.guest.Hurry)
		start := time.Now()
		s.end()
		s.same("time", time.Second, time.Since(start))
	})
}

// So it is with an output that can't be read to its end. One that was given up while children still wrote
// to it is the command's own doing.
func TestShellWhoseOutputBreaksOff(t *testing.T) {
	for cause, want := range map[error]domain.Report{
		errors.New("input/output error"): {ExitCode: 137, Reason: domain.ReasonKilled, Message: "its output was cut; input/output error"},
		ports.ErrOutputCut:               {Reason: domain.ReasonExited, Message: ports.ErrOutputCut.Error()},
	} {
		withShell(t, domain.ShellSpec{Command: []string{"work"}}, asAsked, func(s *shellWorld) {
			io.WriteString(s.process.w, "half")
			s.process.exit(success)
			s.process.w.CloseWithError(cause)
			s.process.errW.Close()
			s.wantExit(want)
		})
	}
}

// A command that doesn't exist is an exit report with a line for whoever looks at the terminal, and no
// crash.
func TestShellThatCantStart(t *testing.T) {
	fails := &ports.StartError{ExitCode: 127, Err: errors.New("command \"\x1b\" is not\nfound")}
	for _, tty := range []bool{false, true} {
		withShell(t, domain.ShellSpec{Command: []string{"\x1b"}, TTY: tty}, func(s *shellWorld) { s.shells.fails = fails }, func(s *shellWorld) {
			if s.shell.report == nil {
				s.Fatal("no exit was told")
			}
			s.same("the report", domain.Report{
				ExitCode: 127, Reason: domain.ReasonStartFailed, Message: domain.Cut(fails.Error()),
			}, *s.shell.report)
			told, silent := s.shell.stderr.String(), s.shell.stdout.String()
			end := "\n"
			if tty {
				told, silent, end = silent, told, "\r\n"
			}
			s.same("it says", "guest-tools: command \" \" is not found"+end, told)
			s.same("and beside it", "", silent)
			// The next one can.
			s.shells.fails = nil
			s.host.set(func() { s.host.shells["next"] = newFakeShell() })
			s.offer(domain.ExecShell("next", domain.ShellSpec{}))
			s.same("starts", 2, len(s.shells.starts()))
		})
	}
}

// A process that nobody could see or end is never started.
func TestShellWithoutItsHost(t *testing.T) {
	refused := func(s *shellWorld) { s.host.refuse["shell"] = errAway }
	withShell(t, domain.ShellSpec{}, refused, func(s *shellWorld) {
		s.settle(time.Minute)
		s.same("starts", 0, len(s.shells.starts()))
		s.same("tries", 1, len(s.host.times("shell"))) // a second one might run it twice
	})
}

func TestShellSizes(t *testing.T) {
	for want, spec := range map[ports.TerminalSize]domain.ShellSpec{
		{Columns: 80, Rows: 24}:  {TTY: true},
		{Columns: 132, Rows: 50}: {TTY: true, Columns: 132, Rows: 50},
	} {
		withShell(t, spec, asAsked, func(s *shellWorld) {
			s.same("the size to begin with", &want, s.shells.starts()[0].Terminal)
			for columns := range uint16(3) {
				s.shell.sizes <- ports.TerminalSize{Columns: columns, Rows: 9}
				synctest.Wait()
			}
			s.same("the sizes set", []ports.TerminalSize{{Columns: 0, Rows: 9}, {Columns: 1, Rows: 9}, {Columns: 2, Rows: 9}}, s.process.resized)
		})
	}
}

// What the host doesn't say is as it is for the task; what it says counts.
func TestShellPlace(t *testing.T) {
	config := func(s *shellWorld) {
		s.config.Environ = []string{"A=system", "TERM=dumb"}
		s.config.Env = map[string]string{"B": "guest", "C": "guest"}
		s.peer.Task.Env = map[string]string{"C": "task", "D": "task"}
		s.config.Dir, s.config.User = "/home/task", "task"
	}
	fallback := []string{"sh"}
	if runtime.GOOS == "windows" {
		fallback = []string{"cmd.exe"}
	}
	tasks := []string{"A=system", "TERM=dumb", "B=guest", "C=guest", "C=task", "D=task"}
	for name, test := range map[string]struct {
		spec  domain.ShellSpec
		shell []string
		want  ports.ProcessSpec
	}{
		"nothing said":     {want: ports.ProcessSpec{Command: fallback, Env: tasks, Dir: "/home/task", User: "task"}},
		"the config's own": {shell: []string{"zsh", "-l"}, want: ports.ProcessSpec{Command: []string{"zsh", "-l"}, Env: tasks, Dir: "/home/task", User: "task"}},
		"all said": {
			spec:  domain.ShellSpec{Command: []string{"make"}, Env: map[string]string{"D": "shell", "A": "shell"}, Dir: "/srv", User: "root"},
			shell: []string{"zsh"},
			want: ports.ProcessSpec{
				Command: []string{"make"}, Env: append(slices.Clone(tasks), "A=shell", "D=shell"), Dir: "/srv", User: "root",
			},
		},
		"a folder below": {
			spec: domain.ShellSpec{Command: []string{"make"}, Dir: "src"},
			want: ports.ProcessSpec{Command: []string{"make"}, Env: tasks, Dir: "/home/task/src", User: "task"},
		},
		"a terminal": { // whose TERM is the least that counts
			spec: domain.ShellSpec{TTY: true},
			want: ports.ProcessSpec{
				Command: fallback, Env: append([]string{"TERM=xterm-256color"}, tasks...), Dir: "/home/task", User: "task",
				Terminal: &ports.TerminalSize{Columns: 80, Rows: 24},
			},
		},
	} {
		withShell(t, test.spec, func(s *shellWorld) { config(s); s.config.Shell = test.shell }, func(s *shellWorld) {
			s.same(name, []ports.ProcessSpec{test.want}, s.shells.starts())
		})
	}
}

// Shells stay, so they don't count among the actions; but there is an end to them, too. One that finds no
// room doesn't use its id up.
func TestShellsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ran := make(chan domain.ActionID, 2*maxShells)
		c := newCrew(func(action domain.Action) {
			ran <- action.ID()
			if action.Kind() == domain.KindExecShell {
				<-release
			}
		})
		take := func(make func() (domain.Action, error)) bool {
			action, err := make()
			if err != nil {
				t.Fatal(err)
			}
			defer synctest.Wait()
			return c.take(action)
		}
		shell := func(id string) func() (domain.Action, error) {
			return func() (domain.Action, error) { return domain.ExecShell(domain.ActionID(id), domain.ShellSpec{}) }
		}
		for i := range maxShells {
			if !take(shell(strconv.Itoa(i))) {
				t.Fatalf("shell %d is refused", i)
			}
		}
		if take(shell("one more")) {
			t.Error("there is one more")
		}
		for range 3 * maxActions { // none of which is held up
			id := domain.ActionID(fmt.Sprint("file ", len(c.seen)))
			if !take(func() (domain.Action, error) { return domain.GetArtifact(id, "/file") }) {
				t.Error("a file waits for shells")
			}
		}
		if !take(func() (domain.Action, error) { return domain.KillProcess("kill") }) {
			t.Error("a kill waits for shells")
		}
		if got := len(ran); got != maxShells+3*maxActions+1 {
			t.Errorf("%d ran", got)
		}
		release <- struct{}{}
		synctest.Wait()
		if !take(shell("one more")) || take(shell("one more")) {
			t.Error("where one has ended there is room for one, once")
		}
		close(release)
		c.close()
	})
}
