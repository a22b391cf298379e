package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// fakeSession is a shell whose other end is the test.
type fakeSession struct {
	stdin          *io.PipeReader
	stdout, stderr *io.PipeWriter
	ours           struct {
		stdin          *io.PipeWriter
		stdout, stderr *io.PipeReader
	}
	done chan struct{}

	mu     sync.Mutex // guards what follows
	over   bool
	result domain.Result
	err    error
	sizes  []string
}

func newFakeSession() *fakeSession {
	s := &fakeSession{done: make(chan struct{})}
	s.stdin, s.ours.stdin = io.Pipe()
	s.ours.stdout, s.stdout = io.Pipe()
	s.ours.stderr, s.stderr = io.Pipe()
	return s
}

// end is the shell's end, unless there was one; err ends its outputs, or EOF.
func (s *fakeSession) end(result domain.Result, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.over, s.result, s.err = true, result, err
	s.stdin.CloseWithError(domain.ErrShellTerminated)
	if err != nil {
		s.stdout.CloseWithError(err)
		s.stderr.CloseWithError(err)
	}
	close(s.done)
	return true
}

// exit is an end in order, after that of both outputs.
func (s *fakeSession) exit(code int) {
	s.stdout.Close()
	s.stderr.Close()
	s.end(domain.Result{Success: code == 0, Report: &domain.Report{ExitCode: code, Reason: domain.ReasonExited}}, nil)
}

func (s *fakeSession) StdinPipe() io.WriteCloser { return s.ours.stdin }
func (s *fakeSession) StdoutPipe() io.ReadCloser { return s.ours.stdout }
func (s *fakeSession) StderrPipe() io.ReadCloser { return s.ours.stderr }
func (s *fakeSession) Done() <-chan struct{}     { return s.done }

func (s *fakeSession) SetSize(columns, rows uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes = append(s.sizes, fmt.Sprintf("%dx%d", columns, rows))
	return nil
}

func (s *fakeSession) Abort() error {
	if !s.end(domain.Result{}, domain.ErrShellAborted) {
		return domain.ErrShellTerminated
	}
	return nil
}

func (s *fakeSession) Wait() (bool, error) {
	result, err := s.Result(context.Background())
	return result.Success, err
}

func (s *fakeSession) Result(context.Context) (domain.Result, error) {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.result, s.err
}

var _ ports.ShellSession = (*fakeSession)(nil)

// consoleFor is a console without a terminal.
func consoleFor(in io.Reader, out, err io.Writer, spec domain.ShellSpec) *console {
	around := newSetting(streams{out: io.Discard, err: io.Discard}, false)
	return newConsole(around, streams{in: in, out: out, err: err}, spec)
}

func TestAttachRelaysEachStream(t *testing.T) {
	var out, err bytes.Buffer
	session := newFakeSession()
	go func() {
		text, _ := io.ReadAll(session.stdin)
		fmt.Fprintf(session.stderr, "errors")
		fmt.Fprintf(session.stdout, "got %s", text)
		session.exit(3)
	}()
	status, why := consoleFor(strings.NewReader("the input"), &out, &err, domain.ShellSpec{}).attach(session).verdict()
	if status != 3 || why != nil || out.String() != "got the input" || err.String() != "errors" {
		t.Errorf("%d, %v, %q, %q", status, why, out.String(), err.String())
	}
}

// unread fails the test that reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the input was read")
	return 0, io.EOF
}

func TestInputIsLeftAloneWhereTheShellHasNone(t *testing.T) {
	session := newFakeSession()
	session.stdout.Close()
	go session.exit(0)
	if status, why := consoleFor(unread{t}, io.Discard, io.Discard, domain.ShellSpec{NoStdin: true}).attach(session).verdict(); status != 0 || why != nil {
		t.Errorf("%d, %v", status, why)
	}
}

// A script that is typed into a terminal must be seen whole, which hanging up doesn't wait for.
func TestInputThatIsNoTerminalEndsATerminalWithItsKey(t *testing.T) {
	for text, want := range map[string]string{"": "\x04", "ls\n": "ls\n\x04", "ls": "ls\x04\x04"} {
		session := newFakeSession()
		go func() {
			got := make([]byte, len(want))
			io.ReadFull(session.stdin, got)
			if string(got) != want {
				t.Errorf("the input %q came as %q", text, got)
			}
			session.exit(0)
		}()
		if status, why := consoleFor(strings.NewReader(text), io.Discard, io.Discard, domain.ShellSpec{TTY: true}).attach(session).verdict(); status != 0 || why != nil {
			t.Errorf("%d, %v", status, why)
		}
	}
}

func TestOutputThatCannotBeWrittenEndsTheShell(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		status int
		says   string
	}{
		"nobody reads":  {fmt.Errorf("write: %w", syscall.EPIPE), exitSignal + int(syscall.SIGPIPE), ""},
		"a full disk":   {fmt.Errorf("write: %w", syscall.ENOSPC), exitOurs, "can't be written any more: write: no space left"},
		"errors unread": {fmt.Errorf("write: %w", syscall.EPIPE), exitSignal + int(syscall.SIGPIPE), ""},
	} {
		t.Run(name, func(t *testing.T) {
			session := newFakeSession()
			out, err := io.Writer(failing{test.err}), io.Writer(io.Discard)
			if name == "errors unread" {
				out, err = err, out
			}
			go func() {
				for session.writeBoth() == nil {
				}
			}()
			status, why := consoleFor(strings.NewReader(""), out, err, domain.ShellSpec{}).attach(session).verdict()
			if status != test.status || test.says == "" && why != nil || test.says != "" && !strings.Contains(fmt.Sprint(why), test.says) {
				t.Errorf("%d, %v", status, why)
			}
		})
	}
}

func (s *fakeSession) writeBoth() error {
	_, outErr := s.stdout.Write([]byte("x"))
	_, errErr := s.stderr.Write([]byte("x"))
	return errors.Join(outErr, errErr)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// stuck takes nothing until the test ends, as a pager that waits.
type stuck chan struct{}

func (s stuck) Write(p []byte) (int, error) {
	<-s
	return len(p), nil
}

func TestOutputThatNobodyReads(t *testing.T) {
	const pager = time.Hour
	timedOut := domain.Result{Report: &domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonTimeout}}
	for name, test := range map[string]struct {
		happens func(*console, *fakeSession)
		status  int
		says    string
		took    time.Duration
	}{
		"it is waited for":           {func(*console, *fakeSession) {}, 3, "", pager},
		"until a signal":             {func(c *console, _ *fakeSession) { c.signals.add(syscall.SIGTERM) }, exitOurs, "", time.Minute + hurryPatience},
		"or two":                     {func(c *console, _ *fakeSession) { c.signals.add(syscall.SIGTERM); c.signals.add(syscall.SIGTERM) }, exitOurs, "", time.Minute},
		"or the shell's time is out": {func(_ *console, s *fakeSession) { s.end(timedOut, nil) }, exitTimedOut, "the shell's output is incomplete: nobody reads it", time.Minute + hurryPatience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				session, out := newFakeSession(), make(stuck)
				c := consoleFor(nil, out, io.Discard, domain.ShellSpec{Timeout: time.Minute})
				time.AfterFunc(time.Minute, func() { test.happens(c, session) })
				time.AfterFunc(pager, func() { close(out) })
				go func() {
					session.stdout.Write([]byte("a page"))
					if name == "it is waited for" {
						session.exit(3)
					}
				}()
				begun := time.Now()
				status, why := c.attach(session).verdict()
				if took := time.Since(begun); status != test.status || took != test.took {
					t.Errorf("status %d after %s, not %d after %s", status, took, test.status, test.took)
				}
				if test.says == "" && why != nil || test.says != "" && !strings.Contains(fmt.Sprint(why), test.says) {
					t.Errorf("it says %v", why)
				}
				time.Sleep(pager) // what is stuck ends
				session.stdout.Close()
				session.stderr.Close()
			})
		})
	}
}

func TestVerdictsOfShells(t *testing.T) {
	report := func(r domain.Report) attached {
		return attached{spec: domain.ShellSpec{Timeout: time.Second}, result: domain.Result{Success: r.Succeeded(), Report: &r}}
	}
	lost := fmt.Errorf("%w: the guest never said how the shell ended", domain.ErrNonFatalInternalError)
	for name, test := range map[string]struct {
		end    attached
		status int
		says   string
	}{
		"success":               {report(domain.Report{Reason: domain.ReasonExited}), 0, ""},
		"a code":                {report(domain.Report{ExitCode: 7, Reason: domain.ReasonExited}), 7, ""},
		"a code of Windows":     {report(domain.Report{ExitCode: 0xC0000005, Reason: domain.ReasonExited}), 255, ""},
		"no such command":       {report(domain.Report{ExitCode: 127, Reason: domain.ReasonStartFailed}), 127, ""},
		"a signal":              {report(domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonSignaled}), 137, "the shell ended: signaled by SIGKILL"},
		"its time":              {report(domain.Report{ExitCode: 143, Signal: "SIGTERM", Reason: domain.ReasonTimeout}), exitTimedOut, "it had 1s"},
		"a failure with 0":      {report(domain.Report{Reason: domain.ReasonStartFailed}), exitOurs, "calls the shell a failure"},
		"a cut output":          {report(domain.Report{Reason: domain.ReasonExited, Message: "the output was cut"}), 0, "the output was cut"},
		"version 1":             {attached{result: domain.Result{Success: true}}, 0, ""},
		"a failure, version 1":  {attached{}, 1, ""},
		"a lost guest":          {attached{err: lost}, exitOurs, "never said how the shell ended"},
		"a signal here":         {attached{err: domain.ErrShellAborted, cause: errInterrupted}, exitOurs, ""},
		"the way out":           {attached{err: domain.ErrShellAborted, cause: errGivenUp}, 130, "given up"},
		"half of its output":    {attached{result: domain.Result{Success: true}, lost: errUnread}, exitOurs, "incomplete"},
		"half, and it failed":   {attached{lost: errUnread}, 1, "incomplete"},
		"a pipe and its signal": {attached{err: domain.ErrShellAborted, cause: errors.Join(syscall.EPIPE)}, 141, ""},
	} {
		status, why := test.end.verdict()
		if status != test.status || test.says == "" && why != nil || test.says != "" && !strings.Contains(fmt.Sprint(why), test.says) {
			t.Errorf("%s: %d, %v; not %d, %q", name, status, why, test.status, test.says)
		}
	}
}

// fakeOpener has a guest's tools that are new, or old.
type fakeOpener struct {
	old   bool
	asked []domain.ShellSpec
}

func (o *fakeOpener) OpenShell(ctx context.Context, spec domain.ShellSpec) (ports.ShellSession, error) {
	o.asked = append(o.asked, spec)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case o.old && len(spec.NeedsExec()) > 0:
		return nil, domain.ErrFeatureNotSupported
	}
	return newFakeSession(), nil
}

func TestTermIsOurs(t *testing.T) {
	t.Setenv("TERM", "vt220")
	for name, test := range map[string]struct {
		old  bool
		spec domain.ShellSpec
		want []map[string]string // of what was asked
		err  error
	}{
		"no terminal":      {spec: domain.ShellSpec{}, want: []map[string]string{nil}},
		"ours":             {spec: domain.ShellSpec{TTY: true}, want: []map[string]string{{"TERM": "vt220"}}},
		"beside others":    {spec: domain.ShellSpec{TTY: true, Env: map[string]string{"A": "1"}}, want: []map[string]string{{"A": "1", "TERM": "vt220"}}},
		"another":          {spec: domain.ShellSpec{TTY: true, Env: map[string]string{"TERM": "dumb"}}, want: []map[string]string{{"TERM": "dumb"}}},
		"old tools":        {old: true, spec: domain.ShellSpec{TTY: true}, want: []map[string]string{{"TERM": "vt220"}, nil}},
		"too old to obey":  {old: true, spec: domain.ShellSpec{TTY: true, Dir: "/"}, want: []map[string]string{{"TERM": "vt220"}}, err: domain.ErrFeatureNotSupported},
		"no need of a try": {old: true, spec: domain.ShellSpec{}, want: []map[string]string{nil}},
	} {
		t.Run(name, func(t *testing.T) {
			opener := &fakeOpener{old: test.old}
			_, err := consoleFor(nil, io.Discard, io.Discard, test.spec).open(opener)
			var got []map[string]string
			for _, spec := range opener.asked {
				got = append(got, spec.Env)
			}
			if diff := cmp.Diff(test.want, got); diff != "" || !errors.Is(err, test.err) {
				t.Errorf("%s %v", diff, err)
			}
		})
	}
	t.Setenv("TERM", "\xff")
	opener := &fakeOpener{}
	if _, err := consoleFor(nil, io.Discard, io.Discard, domain.ShellSpec{TTY: true}).open(opener); err != nil || opener.asked[0].Check() != nil {
		t.Errorf("%v, a TERM that can't be: %v", err, opener.asked[0].Env)
	}
}

func TestSignalEndsTheOpening(t *testing.T) {
	c := consoleFor(nil, io.Discard, io.Discard, domain.ShellSpec{})
	c.signals.add(syscall.SIGINT)
	if _, err := c.open(&fakeOpener{}); !errors.Is(err, errInterrupted) {
		t.Error(err)
	}
}

func TestTheWayOut(t *testing.T) {
	type press struct {
		keys  string
		after time.Duration
	}
	for name, test := range map[string]struct {
		presses []press
		out     bool
	}{
		"at once":           {[]press{{"\x1d\x1d\x1d", 0}}, true},
		"one by one":        {[]press{{"\x1d", 0}, {"\x1d", 400 * time.Millisecond}, {"\x1d", 500 * time.Millisecond}}, true},
		"too slow":          {[]press{{"\x1d", 0}, {"\x1d", 600 * time.Millisecond}, {"\x1d", 600 * time.Millisecond}}, false},
		"slow, then fast":   {[]press{{"\x1d", 0}, {"\x1d", 2 * time.Second}, {"\x1d\x1d", 0}}, true},
		"two":               {[]press{{"\x1d\x1d", 0}}, false},
		"another between":   {[]press{{"\x1d\x1dx\x1d", 0}}, false},
		"after other input": {[]press{{"ls\r\x1d\x1d", 0}, {"\x1dx", 0}}, true},
	} {
		var keys exitKeys
		now, out := time.Unix(0, 0), false
		for _, press := range test.presses {
			now = now.Add(press.after)
			out = keys.pressed([]byte(press.keys), now) || out
		}
		if out != test.out {
			t.Errorf("%s: %v", name, out)
		}
	}
}
