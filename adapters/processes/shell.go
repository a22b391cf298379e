package processes

import (
	"io"
	"os"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// StartShell implements ports.Shells. Whatever goes wrong is a *ports.StartError.
func (s *Starter) StartShell(spec ports.ProcessSpec) (ports.ShellProcess, error) {
	cmd, err := resolve(spec)
	if err != nil {
		return nil, err
	}
	streams, err := openShell(spec.Terminal, cmd.credential)
	if err != nil {
		return nil, startError(domain.ExitNotExecutable, "command %s can't be given its streams: %w", domain.Quote(cmd.path), err)
	}
	if !streams.childs.terminal { // which its output holds
		defer streams.childs.close()
	}
	p := newShellProcess(streams)
	p.tree, err = s.hold(cmd, streams.childs, p.finish)
	if err != nil {
		_ = p.closeStreams()
		return nil, err
	}
	return p, nil
}

// shellStreams are a shell's streams: our ends, and the child's.
type shellStreams struct {
	in     *input
	out    *output
	err    *output                        // nil with a terminal
	resize func(ports.TerminalSize) error // nil without one
	childs standard
}

// openShell opens a terminal, or three pipes.
func openShell(size *ports.TerminalSize, owner *credential) (*shellStreams, error) {
	open := openPipes
	if size != nil {
		open = func() (*shellStreams, error) { return openShellTerminal(*size) }
	}
	s, err := open()
	if err != nil {
		return nil, err
	}
	for _, file := range s.childs.files() {
		give(file, owner)
	}
	return s, nil
}

func openPipes() (*shellStreams, error) {
	s := &shellStreams{}
	var err error
	if s.in, s.childs.in, err = inputPipe(); err != nil {
		return nil, err
	}
	if s.out, s.childs.out, err = outputPipe(); err != nil {
		s.in.close()
		s.childs.close()
		return nil, err
	}
	if s.err, s.childs.err, err = outputPipe(); err != nil {
		s.in.close()
		s.out.stop()
		s.out.close()
		s.childs.close()
		return nil, err
	}
	return s, nil
}

func (s standard) files() []*os.File {
	if s.terminal {
		return []*os.File{s.in}
	}
	return []*os.File{s.in, s.out, s.err}
}

func (s standard) close() {
	for _, file := range s.files() {
		file.Close() // of nil, an error
	}
}

// shellProcess is a ports.ShellProcess.
type shellProcess struct {
	*process
	shell *shellStreams
}

func newShellProcess(s *shellStreams) *shellProcess {
	others := []stream{s.in}
	if s.err != nil {
		others = append(others, s.err)
	}
	p := &shellProcess{process: newProcess(s.out, others...), shell: s}
	if s.childs.terminal {
		s.in.hangUp = p.hangUp
	}
	return p
}

// hangUp tells the terminal's session that nobody is at its other end any more.
func (p *shellProcess) hangUp() {
	if !p.hasEnded() { // what its end is to its session, the system tells
		p.tree.hangUp()
	}
}

func (p *shellProcess) Stdin() io.WriteCloser { return p.shell.in }

func (p *shellProcess) ErrOutput() io.Reader {
	if p.shell.err == nil {
		return nil
	}
	return p.shell.err
}

func (p *shellProcess) SetSize(size ports.TerminalSize) error {
	if p.shell.resize == nil {
		return domain.ErrFeatureNotSupported
	}
	return p.shell.resize(size)
}
