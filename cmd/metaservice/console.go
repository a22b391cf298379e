package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// console is where a shell's streams are: metaservice's own standard streams, and their terminal.
type console struct {
	spec     domain.ShellSpec
	to       streams
	terminal *terminal
	typed    bool // the input is keys: the terminal is raw while the shell goes on
	signals  *interrupts

	columns, rows uint16 // of the terminal, as the shell knows it
}

func newConsole(around *setting, to streams, spec domain.ShellSpec) *console {
	return &console{
		spec:     spec,
		to:       to,
		terminal: newTerminal(to, around.say),
		typed:    spec.TTY && !spec.NoStdin && isTerminal(to.in),
		signals:  around.signals,
	}
}

// opener is what of a host.Sandbox opens shells.
type opener interface {
	OpenShell(ctx context.Context, spec domain.ShellSpec) (ports.ShellSession, error)
}

// open opens the shell, unless a signal comes first.
func (c *console) open(in opener) (ports.ShellSession, error) {
	ctx, cancel := until(c.signals.first)
	defer cancel()
	spec := c.spec
	if spec.TTY {
		c.columns, c.rows = c.terminal.size()
		spec.Columns, spec.Rows = c.columns, c.rows
		spec.Env = withTerm(spec.Env, os.Getenv("TERM"))
	}
	session, err := in.OpenShell(ctx, spec)
	if errors.Is(err, domain.ErrFeatureNotSupported) && len(c.spec.NeedsExec()) == 0 {
		spec.Env = nil // old tools have a TERM of their own
		session, err = in.OpenShell(ctx, spec)
	}
	return session, err
}

// withTerm adds our TERM, if there is none yet, and there can be one.
func withTerm(env map[string]string, term string) map[string]string {
	if _, given := env["TERM"]; given || term == "" || !utf8.ValidString(term) {
		return env
	}
	env = maps.Clone(env)
	if env == nil {
		env = make(map[string]string)
	}
	env["TERM"] = term
	return env
}

// attached is a shell that is over.
type attached struct {
	spec   domain.ShellSpec
	result domain.Result
	err    error // where nobody knows how it ended
	cause  error // why it was ended from here; nil if it wasn't
	lost   error // what of its output could not be read
}

var errGivenUp = errors.New("the shell was given up with Ctrl-]")

// verdict is the exit status, and what there is to say about it.
func (a attached) verdict() (status int, why error) {
	switch {
	case errors.Is(a.cause, errInterrupted): // the signal is told by who caught it
		return exitOurs, nil
	case errors.Is(a.cause, errGivenUp):
		return exitSignal + int(syscall.SIGINT), a.cause
	case errors.Is(a.cause, syscall.EPIPE): // as any program that writes on
		return exitSignal + int(syscall.SIGPIPE), nil
	case a.cause != nil:
		return exitOurs, fmt.Errorf("the shell's output can't be written any more: %w", a.cause)
	case a.err != nil:
		return exitOurs, a.err
	}
	status, why = shellVerdict(a.spec, a.result)
	if a.lost != nil {
		status, why = failUnless(status), errors.Join(why, fmt.Errorf("the shell's output is incomplete: %w", a.lost))
	}
	return status, why
}

// shown is one of the shell's outputs that has ended.
type shown struct {
	unwritten error // by our side
	lost      error // by the shell's
}

// attach relays a shell's streams until it has ended and its output is out. A signal ends it; what nobody
// reads then has hurryPatience, and after one signal more no time at all. The terminal is as it was when
// attach returns, or panics.
func (c *console) attach(session ports.ShellSession) attached {
	r := &relay{console: c, session: session, outputs: make(chan shown, 2), end: attached{spec: c.spec}}
	resized, ignore := c.resizes()
	defer ignore()
	c.follow(session)
	if c.typed {
		c.terminal.raw()
		defer c.terminal.restore()
	}
	r.input = c.relayInput(session)
	defer r.input.stop()
	go r.output(c.to.out, session.StdoutPipe()) // ends with the shell; where nobody reads what it wrote, with the process
	go r.output(c.to.err, session.StderrPipe()) // so does this
	r.wait(resized)
	if c.typed && (r.end.cause != nil || r.end.err != nil) {
		fmt.Fprintln(c.terminal.say) // the cursor is wherever the shell left it
	}
	return r.end
}

// relay is a shell whose streams are being passed on.
type relay struct {
	*console
	session ports.ShellSession
	input   relayed
	outputs chan shown
	end     attached
}

func (r *relay) output(to io.Writer, from io.ReadCloser) {
	defer r.terminal.restoreInPanic()
	r.outputs <- show(to, from)
}

// wait waits until the shell is over, and ends it where it is to be ended from here.
func (r *relay) wait(resized <-chan os.Signal) {
	done, first := r.session.Done(), r.signals.first
	var patience <-chan time.Time
	for open := 2; open > 0 || done != nil; {
		select {
		case <-done:
			done = nil
			r.input.stop()
			r.end.result, r.end.err = r.session.Result(context.Background())
			if r.end.cause != nil || r.end.timedOut() {
				patience = time.After(hurryPatience)
			}
		case output := <-r.outputs:
			open--
			r.end.lost = errors.Join(r.end.lost, output.lost)
			if output.unwritten != nil {
				r.abort(output.unwritten)
			}
		case <-r.input.givenUp:
			r.input.givenUp = nil
			r.abort(errGivenUp)
		case <-resized:
			r.terminal.again()
			r.follow(r.session)
		case <-first:
			first = nil
			r.abort(errInterrupted)
			patience = time.After(hurryPatience)
		case <-r.signals.second:
			r.abort(errInterrupted)
			return
		case <-patience:
			r.end.lost = errors.Join(r.end.lost, errUnread)
			return
		}
	}
}

// abort ends the shell. The first reason counts.
func (r *relay) abort(why error) {
	if r.end.cause == nil {
		r.end.cause = why
	}
	_ = r.session.Abort() // one that has ended is fine
}

func (a attached) timedOut() bool {
	return a.result.Report != nil && a.result.Report.Reason == domain.ReasonTimeout
}

// show passes one output on.
func show(to io.Writer, from io.ReadCloser) shown {
	defer from.Close() // the shell is not to wait for who doesn't read
	sink := &sink{to: to}
	_, err := io.Copy(sink, from)
	if sink.err != nil {
		return shown{unwritten: sink.err}
	}
	return shown{lost: err}
}

// sink keeps the error of a writer apart from those of what is copied to it.
type sink struct {
	to  io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// resizes tells when the terminal may have another size, until ignore is called.
func (c *console) resizes() (resized <-chan os.Signal, ignore func()) {
	if !c.spec.TTY {
		return nil, func() {}
	}
	return resizes()
}

// follow sets the shell's terminal to the size of ours, if that has another one by now.
func (c *console) follow(session ports.ShellSession) {
	columns, rows := c.terminal.size()
	if !c.spec.TTY || columns == 0 || columns == c.columns && rows == c.rows {
		return
	}
	c.columns, c.rows = columns, rows
	_ = session.SetSize(columns, rows) // one that has ended needs none
}
