package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// fakeShell is a ports.GuestShell whose host is the test.
type fakeShell struct {
	stdinR *io.PipeReader
	stdin  *io.PipeWriter // what the host sends
	sizes  chan ports.TerminalSize
	stdout *fakeOutput
	stderr *fakeOutput

	mu     sync.Mutex
	done   chan struct{}
	err    error
	events []string
	report *domain.Report
}

func newFakeShell() *fakeShell {
	s := &fakeShell{sizes: make(chan ports.TerminalSize, 1), done: make(chan struct{})}
	s.stdinR, s.stdin = io.Pipe()
	s.stdout = &fakeOutput{shell: s, name: "stdout", closed: make(chan struct{})}
	s.stderr = &fakeOutput{shell: s, name: "stderr", closed: make(chan struct{})}
	return s
}

// over ends it, once.
func (s *fakeShell) over(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return
	default:
	}
	s.err = err
	close(s.done)
	if err == nil {
		err = errors.New("after Exit")
	}
	s.stdin.CloseWithError(err)
	s.stdinR.CloseWithError(err)
}

func (s *fakeShell) note(event string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event)
}

func (s *fakeShell) saw() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events
}

func (s *fakeShell) Stdin() io.Reader                 { return s.stdinR }
func (s *fakeShell) Stdout() io.WriteCloser           { return s.stdout }
func (s *fakeShell) Stderr() io.WriteCloser           { return s.stderr }
func (s *fakeShell) Sizes() <-chan ports.TerminalSize { return s.sizes }
func (s *fakeShell) Done() <-chan struct{}            { return s.done }

func (s *fakeShell) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *fakeShell) Exit(_ context.Context, report domain.Report) error {
	err := s.Err()
	if err == nil {
		s.stdout.Close()
		s.stderr.Close()
		s.note(fmt.Sprintf("exit %d %s", report.ExitCode, report.Reason))
		s.mu.Lock()
		s.report = &report
		s.mu.Unlock()
	}
	s.over(nil)
	return err
}

func (s *fakeShell) Close() error {
	s.over(errors.New("closed"))
	return nil
}

// fakeOutput is one of its outputs.
type fakeOutput struct {
	shell  *fakeShell
	name   string
	stall  bool // the host has no room
	once   sync.Once
	closed chan struct{}

	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *fakeOutput) Write(p []byte) (int, error) {
	if o.stall {
		select {
		case <-o.shell.done:
			return 0, o.shell.Err()
		case <-o.closed:
			return 0, io.ErrClosedPipe
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *fakeOutput) Close() error {
	o.once.Do(func() {
		close(o.closed)
		o.shell.note(o.name + " ended")
	})
	return nil
}

func (o *fakeOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// fakeShells starts one fake process, or fails to.
type fakeShells struct {
	fails   error
	process *fakeShellProcess

	mu    sync.Mutex
	specs []ports.ProcessSpec
}

func (f *fakeShells) StartShell(spec ports.ProcessSpec) (ports.ShellProcess, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs = append(f.specs, spec)
	if f.fails != nil {
		return nil, f.fails
	}
	f.process.terminal = spec.Terminal != nil
	return f.process, nil
}

func (f *fakeShells) starts() []ports.ProcessSpec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.specs
}

// fakeShellProcess is a fakeProcess with all its streams; what it does, the test says.
type fakeShellProcess struct {
	*fakeProcess
	stdin    *io.PipeReader // what it is sent
	in       *io.PipeWriter
	errR     *io.PipeReader
	errW     *io.PipeWriter // what the tree writes to its standard error
	terminal bool

	stateMu sync.Mutex
	resized []ports.TerminalSize
	events  []string // ends, in order
}

func newFakeShellProcess() *fakeShellProcess {
	p := &fakeShellProcess{fakeProcess: newFakeProcess()}
	p.stdin, p.in = io.Pipe()
	p.errR, p.errW = io.Pipe()
	return p
}

func (p *fakeShellProcess) Stdin() io.WriteCloser { return fakeInput{p.in, p} }

type fakeInput struct {
	*io.PipeWriter
	process *fakeShellProcess
}

func (i fakeInput) Close() error {
	i.process.note("input ended")
	return i.PipeWriter.Close()
}

func (p *fakeShellProcess) note(event string) {
	p.stateMu.Lock()
	defer p.stateMu.Unlock()
	p.events = append(p.events, event)
}

func (p *fakeShellProcess) ErrOutput() io.Reader {
	if p.terminal {
		return nil
	}
	return p.errR
}

func (p *fakeShellProcess) SetSize(size ports.TerminalSize) error {
	p.stateMu.Lock()
	defer p.stateMu.Unlock()
	p.resized = append(p.resized, size)
	return nil
}

// endOutputs is the end of whoever wrote to them.
func (p *fakeShellProcess) endOutputs() {
	p.w.Close()
	p.errW.Close()
}

func (p *fakeShellProcess) Kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error) {
	p.note("killed")
	survivors, err := p.fakeProcess.Kill(ctx, grace)
	p.stdin.CloseWithError(errors.New("it was killed"))
	p.errW.Close()
	return survivors, err
}

func (p *fakeShellProcess) Close() error {
	err := p.fakeProcess.Close()
	p.stdin.CloseWithError(errors.New("it was closed"))
	p.errW.Close()
	return err
}
