package contract

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// ShellSetup is a guest in which the suite Shell opens shells.
type ShellSetup struct {
	// Open opens a shell. The guest is a Unix system with the usual commands, or plays them by Scripts.
	Open func(t *testing.T, spec domain.ShellSpec) ports.ShellSession
	// Break breaks the connections of the open shells off; nil where that can't be done.
	Break func()
	// Reports tells whether the guest says more of its exits than whether they are successes.
	Reports bool
	// Volume is how many bytes go through a shell and back; 0 is 42 MiB.
	Volume int
}

// Shell is the suite of ports.Shell, and of ports.ShellSession.
func Shell(t *testing.T, setup func(t *testing.T) ShellSetup) {
	for _, group := range []map[string]func(shellTest){shellEnds, shellData, shellBreaks} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				test(shellTest{t, setup(t)})
			})
		}
	}
}

// shellTest is a test of the suite Shell.
type shellTest struct {
	*testing.T
	ShellSetup
}

// open runs a script in a shell. What hangs is aborted after a while, which its test will notice.
func (s shellTest) open(script string, tty bool) ports.ShellSession {
	s.Helper()
	return s.openSpec(domain.ShellSpec{Command: []string{"sh", "-c", script}, TTY: tty})
}

func (s shellTest) openSpec(spec domain.ShellSpec) ports.ShellSession {
	s.Helper()
	shell := s.Open(s.T, spec)
	watch := time.AfterFunc(processPatience, func() {
		s.Errorf("%q hangs", spec.Command)
		_ = shell.Abort()
	})
	s.Cleanup(func() { watch.Stop() })
	return shell
}

// eitherWay runs a test without a terminal, and with one.
func eitherWay(test func(shellTest, bool)) func(shellTest) {
	return func(s shellTest) {
		s.Run("pipes", func(t *testing.T) { test(shellTest{t, s.ShellSetup}, false) })
		s.Run("terminal", func(t *testing.T) { test(shellTest{t, s.ShellSetup}, true) })
	}
}

// read reads a stream beside the test.
func (s shellTest) read(from io.Reader) (all func() ([]byte, error)) {
	var got []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		got, err = io.ReadAll(from)
	}()
	return func() ([]byte, error) {
		<-done
		return got, err
	}
}

// wantEnd reads both outputs to their ends, and wants the shell's end to be this.
func (s shellTest) wantEnd(shell ports.ShellSession, code int) (out, errOut []byte) {
	s.Helper()
	first, second := s.read(shell.StdoutPipe()), s.read(shell.StderrPipe())
	out, err := first()
	errOut, secondErr := second()
	if err := errors.Join(err, secondErr); err != nil {
		s.Errorf("the outputs end with %v", err)
	}
	s.wantResult(shell, code)
	return out, errOut
}

func (s shellTest) wantResult(shell ports.ShellSession, code int) {
	s.Helper()
	result, err := shell.Result(context.Background())
	if err != nil || result.Success != (code == 0) {
		s.Errorf("the result is %+v, %v; want exit code %d", result, err, code)
	}
	if s.Reports && (result.Report == nil || *result.Report != domain.Report{ExitCode: code, Reason: domain.ReasonExited}) {
		s.Errorf("the report is %v, want exit code %d", result.Report, code)
	}
}

// wantErr wants each of several to be an error of this class.
func (s shellTest) wantErr(class error, errs map[string]error) {
	s.Helper()
	for what, err := range errs {
		if !errors.Is(err, class) {
			s.Errorf("%s: %v; want %v", what, err, class)
		}
	}
}

func (s shellTest) write(shell ports.Shell, text string) {
	s.Helper()
	if n, err := io.WriteString(shell.StdinPipe(), text); n != len(text) || err != nil {
		s.Fatalf("%d of %d bytes were written, %v", n, len(text), err)
	}
}

func writeErr(shell ports.Shell) error {
	_, err := shell.StdinPipe().Write([]byte("late"))
	return err
}

func readErr(from io.Reader) error {
	_, err := io.Copy(io.Discard, from)
	if err == nil {
		return io.EOF
	}
	return err
}

func waitErr(shell ports.Shell) error {
	_, err := shell.Wait()
	return err
}

func resultErr(ctx context.Context, shell ports.ShellSession) error {
	_, err := shell.Result(ctx)
	return err
}

var shellEnds = map[string]func(shellTest){
	"an end is told to all, for ever":       eitherWay(shellEndsOnce),
	"an end that nobody can wait for":       shellGiveUp,
	"an abort is told to all, for ever":     eitherWay(shellAborted),
	"an abort frees whoever waits":          eitherWay(shellAbortFrees),
	"an abort drops what nobody has read":   shellAbortDrops,
	"a size is set from anywhere, any time": shellResizes,
	"no size without a terminal":            shellSizeless,
}

// shellEndsOnce: what an end makes of every method, from many goroutines at once.
func shellEndsOnce(s shellTest, tty bool) {
	for script, code := range map[string]int{scriptSucceed: 0, scriptBoth: 3} {
		shell := s.open(script, tty)
		var waiting sync.WaitGroup
		for range 10 {
			waiting.Go(func() {
				success, err := shell.Wait()
				if success != (code == 0) || err != nil {
					s.Errorf("%s: Wait: %v, %v", script, success, err)
				}
				<-shell.Done()
				s.wantResult(shell, code)
			})
		}
		out, errOut := s.wantEnd(shell, code)
		waiting.Wait()
		if all := string(out) + string(errOut); script == scriptBoth && strings.ReplaceAll(all, "\r", "") != "out\nerror\n" {
			s.Errorf("it says %q and %q", out, errOut)
		}
		if tty && len(errOut) > 0 {
			s.Errorf("with a terminal it says %q on its standard error", errOut)
		}
		for range 3 {
			s.wantErr(domain.ErrShellTerminated, map[string]error{
				"Abort": shell.Abort(), "Write": writeErr(shell),
			})
			s.wantErr(io.EOF, map[string]error{
				"standard output": readErr(shell.StdoutPipe()), "standard error": readErr(shell.StderrPipe()),
			})
			if tty {
				s.wantErr(domain.ErrShellTerminated, map[string]error{"SetSize": shell.SetSize(80, 25)})
			}
			s.wantResult(shell, code)
		}
		for range 2 { // it needs no closing, and takes it
			for _, pipe := range []io.Closer{shell.StdinPipe(), shell.StdoutPipe(), shell.StderrPipe()} {
				if err := pipe.Close(); err != nil {
					s.Errorf("%s: Close: %v", script, err)
				}
			}
		}
	}
}

func shellGiveUp(s shellTest) {
	shell := s.open(scriptSleep, false)
	why := errors.New("nobody waits any more")
	ctx, cancel := context.WithCancelCause(context.Background())
	given := make(chan error, 1)
	go func() { given <- resultErr(ctx, shell) }()
	cancel(why)
	s.wantErr(why, map[string]error{"Result": <-given, "again": resultErr(ctx, shell)})
	select {
	case <-shell.Done():
		s.Error("the shell has ended by that")
	default:
	}
	if err := shell.Abort(); err != nil {
		s.Error(err)
	}
}

// shellAborted: one abort of many is the one that did it, and from then on it is what has happened.
func shellAborted(s shellTest, tty bool) {
	shell := s.open(scriptSleep, tty)
	firsts := make(chan error, 10)
	var aborting sync.WaitGroup
	for range cap(firsts) {
		aborting.Go(func() { firsts <- shell.Abort() })
	}
	aborting.Wait()
	close(firsts)
	did := 0
	for err := range firsts {
		if err == nil {
			did++
		} else if !errors.Is(err, domain.ErrShellAborted) {
			s.Errorf("Abort: %v", err)
		}
	}
	if did != 1 {
		s.Errorf("%d of %d aborts did it", did, cap(firsts))
	}
	<-shell.Done()
	for range 3 {
		s.wantErr(domain.ErrShellAborted, map[string]error{
			"Wait": waitErr(shell), "Result": resultErr(context.Background(), shell), "Abort": shell.Abort(),
			"Write": writeErr(shell), "standard output": readErr(shell.StdoutPipe()),
		})
		if tty { // whose guest may have said before that there is no more standard error
			s.wantErr(domain.ErrShellAborted, map[string]error{"SetSize": shell.SetSize(80, 25)})
		} else {
			s.wantErr(domain.ErrShellAborted, map[string]error{"standard error": readErr(shell.StderrPipe())})
		}
	}
	if err := shell.StdinPipe().Close(); err != nil {
		s.Errorf("close the input: %v", err)
	}
}

// shellAbortFrees: a write that nobody takes, reads and a wait. A terminal takes, and forgets, what is
// written to it, and has one output.
func shellAbortFrees(s shellTest, tty bool) {
	shell := s.open(scriptSleep, tty)
	blocked := map[string]chan error{}
	begin := func(what string, do func() error) {
		done := make(chan error, 1)
		blocked[what] = done
		go func() { done <- do() }()
	}
	begin("standard output", func() error { return readErr(shell.StdoutPipe()) })
	begin("Wait", func() error { return waitErr(shell) })
	begin("Result", func() error { return resultErr(context.Background(), shell) })
	if !tty {
		begin("standard error", func() error { return readErr(shell.StderrPipe()) })
		begin("Write", func() error {
			_, err := shell.StdinPipe().Write(make([]byte, 16<<20))
			return err
		})
		select {
		case err := <-blocked["Write"]:
			s.Fatalf("16 MiB went to a process that reads nothing: %v", err)
		case <-time.After(50 * time.Millisecond): // it blocks, or is about to
		}
	}
	since := time.Now()
	if err := shell.Abort(); err != nil {
		s.Error(err)
	}
	for what, err := range blocked {
		s.wantErr(domain.ErrShellAborted, map[string]error{what: <-err})
	}
	if took := time.Since(since); took > 10*time.Second {
		s.Errorf("they were freed after %s", took)
	}
}

func shellAbortDrops(s shellTest) {
	shell := s.open(scriptEndless, false)
	if _, err := io.ReadFull(shell.StdoutPipe(), make([]byte, 1<<20)); err != nil {
		s.Fatal(err)
	}
	if err := shell.Abort(); err != nil {
		s.Error(err)
	}
	// What is in the hands of the reader it may keep.
	if n, err := io.CopyN(io.Discard, shell.StdoutPipe(), 1<<20); !errors.Is(err, domain.ErrShellAborted) {
		s.Errorf("after Abort %d bytes could be read, %v", n, err)
	}
}

func shellResizes(s shellTest) {
	shell := s.openSpec(domain.ShellSpec{Command: []string{"sh", "-c", scriptSizes}, TTY: true})
	lines := make(chan string)
	gone := make(chan struct{})
	s.Cleanup(func() { close(gone) })
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(shell.StdoutPipe()); scanner.Scan(); {
			select {
			case lines <- strings.TrimSpace(scanner.Text()):
			case <-gone:
				return
			}
		}
	}()
	until := func(want string) {
		for {
			s.write(shell, "\n")
			for line := range lines {
				if line == want {
					return
				}
				if line != "" { // which is the terminal's echo
					break
				}
			}
		}
	}
	until("24 80")
	var setting sync.WaitGroup
	for columns := range 100 {
		setting.Go(func() {
			if err := shell.SetSize(uint16(columns+1), 50); err != nil {
				s.Error(err)
			}
		})
	}
	setting.Wait()
	if err := shell.SetSize(132, 50); err != nil {
		s.Error(err)
	}
	until("50 132")
	if err := shell.Abort(); err != nil {
		s.Error(err)
	}
	s.wantErr(domain.ErrShellAborted, map[string]error{"SetSize": shell.SetSize(80, 25)})
}

func shellSizeless(s shellTest) {
	shell := s.open(scriptSucceed, false)
	for range 2 {
		s.wantErr(domain.ErrFeatureNotSupported, map[string]error{"SetSize": shell.SetSize(80, 25)})
		s.wantEnd(shell, 0)
	}
}
