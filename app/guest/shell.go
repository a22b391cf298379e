package guest

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// defaultTerm is what a shell's terminal is said to be where nobody says.
const defaultTerm = "TERM=xterm-256color"

// serveShell answers an exec-shell. The host is connected first: a process that nobody could see or end is
// never started.
func (g *Guest) serveShell(ctx context.Context, action domain.Action) error {
	host, err := g.config.Host.OpenShell(ctx, action.ID(), g.link.has(domain.FeatureShell2))
	if err != nil {
		return err
	}
	defer host.Close()
	asked := action.Shell()
	process, err := g.config.Shells.StartShell(g.shellSpec(asked))
	if err != nil {
		g.log.Info("a shell can't be started", "action", action, "error", err)
		return g.shellFailed(ctx, host, asked, err)
	}
	s := newShell(ctx, host, process, asked)
	report := s.run(g.hurry)
	g.log.Info("a shell has ended", "action", action, "report", report.String())
	if err := s.process.Close(); err != nil {
		g.log.Error("what a shell started could not be ended", "action", action, "error", err)
	}
	words, cancel := g.lastWords(ctx)
	defer cancel()
	err = host.Exit(words, report)
	s.join()
	return err
}

// lastWords is a context for what is said at the end: once ctx ends there is only a moment for it, and in a
// hurry none.
func (g *Guest) lastWords(ctx context.Context) (context.Context, context.CancelFunc) {
	words, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(goodbye, cancel)
		hurried := context.AfterFunc(g.hurry, cancel)
		context.AfterFunc(words, func() {
			timer.Stop()
			hurried()
		})
	})
	return words, func() {
		stop()
		cancel()
	}
}

// shellFailed tells of a shell that can't be started: with the exit code that shells give it, and a line on
// its standard error, or on its terminal.
func (g *Guest) shellFailed(ctx context.Context, host ports.GuestShell, asked domain.ShellSpec, err error) error {
	out, end := host.Stderr(), "\n"
	if asked.TTY {
		out, end = host.Stdout(), "\r\n"
	}
	words, cancel := g.lastWords(ctx)
	defer cancel()
	_, writeErr := io.WriteString(out, strings.TrimSuffix(line(err.Error()), "\n")+end)
	return errors.Join(writeErr, host.Exit(words, startReport(err)))
}

// shellSpec is what to start: what the host doesn't say is as it is for the task.
func (g *Guest) shellSpec(asked domain.ShellSpec) ports.ProcessSpec {
	spec := ports.ProcessSpec{
		Command: asked.Command,
		Env:     g.environ(g.execute.Env, asked.Env),
		Dir:     g.config.Dir,
		User:    g.config.User,
	}
	if len(spec.Command) == 0 {
		spec.Command = g.defaultShell()
	}
	if asked.Dir != "" {
		spec.Dir = asked.Dir
		if !filepath.IsAbs(asked.Dir) {
			spec.Dir = filepath.Join(g.config.Dir, asked.Dir)
		}
	}
	if asked.User != "" {
		spec.User = asked.User
	}
	if asked.TTY {
		columns, rows := asked.Size()
		spec.Terminal = &ports.TerminalSize{Columns: columns, Rows: rows}
		spec.Env = append([]string{defaultTerm}, spec.Env...)
	}
	return spec
}

func (g *Guest) defaultShell() []string {
	switch {
	case len(g.config.Shell) > 0:
		return g.config.Shell
	case runtime.GOOS == "windows":
		return []string{"cmd.exe"}
	}
	return []string{"sh"}
}

// shell is a process and the host's connection to it.
type shell struct {
	host    ports.GuestShell
	process ports.ShellProcess
	asked   domain.ShellSpec

	life   context.Context // ends when the shell is to end at once: the host is gone, or aborted it, or the guest ends
	end    context.CancelFunc
	hungUp chan struct{} // closed at the end of the input
	pumps  sync.WaitGroup
}

func newShell(ctx context.Context, host ports.GuestShell, process ports.ShellProcess, asked domain.ShellSpec) *shell {
	s := &shell{host: host, process: process, asked: asked, hungUp: make(chan struct{})}
	s.life, s.end = context.WithCancel(ctx)
	s.pumps.Go(func() {
		select {
		case <-host.Done():
			s.end()
		case <-s.life.Done():
		}
	})
	s.pumps.Go(s.followSize)
	s.pumps.Go(s.pumpStdin)
	return s
}

// join waits for what ends with the connection.
func (s *shell) join() {
	s.end()
	s.pumps.Wait()
}

// run relays until the process has ended and its output is out, or until it had to be ended: then nothing
// of it is left. Once hurry ends, what is cut short isn't waited for.
func (s *shell) run(hurry context.Context) domain.Report {
	ended := make(chan domain.Report, 1)
	go func() { // ends with the process, which is killed at the end of life
		report, err := s.process.Wait(context.Background())
		if err != nil {
			report = killedReport(err.Error())
		}
		ended <- report
	}()
	outputs := s.pumpOutputs()
	hungUp := s.hungUp
	if !s.asked.TTY || s.asked.NoStdin {
		hungUp = nil
	}
	var over <-chan time.Time
	if s.asked.Timeout > 0 {
		timer := time.NewTimer(s.asked.Timeout)
		defer timer.Stop()
		over = timer.C
	}
	var report domain.Report
	var missing error
	var stuck <-chan struct{}
	timedOut, cut, dying := false, false, s.life.Done()
	for ended != nil || outputs != nil {
		select {
		case report = <-ended:
			ended = nil
		case missing = <-outputs:
			outputs = nil
		case <-hungUp: // with a terminal, the end of the input is the end of the shell, which has been told by now
			hungUp = nil
			s.kill(KillGrace)
		case <-over:
			over, timedOut = nil, ended != nil
			if s.asked.TTY {
				_ = s.process.Stdin().Close() // a shell at a terminal ignores SIGTERM, but no hang-up
			}
			s.kill(KillGrace)
		case <-dying:
			dying, cut = nil, outputs != nil
			s.kill(0)
			_ = s.process.Close() // frees who reads its output; what could not be killed is told by the second one
			moment, cancel := context.WithTimeout(hurry, goodbye)
			defer cancel()
			stuck = moment.Done()
		case <-stuck:
			if ended != nil { // it is in the kernel, where nothing can be killed
				return killedReport("it could not be killed")
			}
			outputs = nil // nobody takes them
		}
	}
	switch {
	case timedOut:
		report.Reason = domain.ReasonTimeout
	case report.Succeeded() && (cut || lost(missing)): // which is a word for all of its output
		report = killedReport("its output was cut")
	}
	if missing != nil {
		add(&report, missing.Error())
	}
	return report
}

// lost tells an output that broke off from one that was given up while children still wrote to it.
func lost(missing error) bool { return missing != nil && !errors.Is(missing, ports.ErrOutputCut) }

func killedReport(message string) domain.Report {
	return domain.Report{ExitCode: domain.ExitSignaled(9), Reason: domain.ReasonKilled, Message: message}
}

// kill ends the tree; at once where life has ended.
func (s *shell) kill(grace time.Duration) {
	_, _ = s.process.Kill(s.life, grace) // survivors are told by Close
}

// pumpOutputs sends both outputs to the host, and tells when both have ended, with what of them is missing.
func (s *shell) pumpOutputs() <-chan error {
	var pumps sync.WaitGroup
	var errs [2]error
	pump := func(i int, to io.WriteCloser, from io.Reader) {
		pumps.Go(func() {
			_, err := io.Copy(to, from)
			if s.life.Err() == nil {
				errs[i] = err
			}
			_ = to.Close() // that it could not be told is the connection's end
		})
	}
	pump(0, s.host.Stdout(), s.process.Output())
	if from := s.process.ErrOutput(); from != nil {
		pump(1, s.host.Stderr(), from)
	} else {
		_ = s.host.Stderr().Close()
	}
	done := make(chan error, 1)
	go func() { // ends with the pumps
		pumps.Wait()
		done <- errors.Join(errs[:]...)
	}()
	return done
}

// pumpStdin passes the input on. What the process doesn't want is dropped, so that the host isn't held up.
func (s *shell) pumpStdin() {
	stdin := s.process.Stdin()
	if s.asked.NoStdin {
		if !s.asked.TTY {
			_ = stdin.Close()
		}
		_, _ = io.Copy(io.Discard, s.host.Stdin())
		return
	}
	_, err := io.Copy(stdin, s.host.Stdin())
	if err != nil { // of the process, or of the host: then it comes again
		_, err = io.Copy(io.Discard, s.host.Stdin())
	}
	if err != nil {
		return // the process is about to be killed, and must not take that for the end of its input
	}
	_ = stdin.Close()
	close(s.hungUp)
}

// followSize sets the terminal's size as the host does.
func (s *shell) followSize() {
	for {
		select {
		case size := <-s.host.Sizes():
			_ = s.process.SetSize(size) // one that can't be set is of no harm
		case <-s.life.Done():
			return
		}
	}
}
