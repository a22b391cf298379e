package faults

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Program is what a guest runs in place of a process. ctx ends when it is killed; then its streams fail. It
// returns its exit code.
type Program func(ctx context.Context, to Streams) int

// Streams are a program's own ends. Stderr is Stdout for the task, whose Stdin is empty.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Programs are the processes of a guest that is a goroutine of this process: a ports.Processes and a
// ports.Shells.
type Programs struct{ Task, Shell Program }

// Start implements ports.Processes.
func (p Programs) Start(ports.ProcessSpec) (ports.Process, error) {
	process := newProcess()
	process.errW.Close()
	process.inR.Close()
	process.run(p.Task, Streams{eof{}, process.outW, process.outW})
	return process, nil
}

// StartShell implements ports.Shells.
func (p Programs) StartShell(ports.ProcessSpec) (ports.ShellProcess, error) {
	process := newProcess()
	process.run(p.Shell, Streams{process.inR, process.outW, process.errW})
	return process, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// process is a program that runs.
type process struct {
	life             context.Context // ends when it is killed
	kill             context.CancelFunc
	outR, errR, inR  *io.PipeReader
	outW, errW, inW  *io.PipeWriter
	ended            chan struct{} // closed when the program has returned, and report is set
	report           domain.Report
	terminated, shut sync.Once
}

func newProcess() *process {
	p := &process{ended: make(chan struct{})}
	p.life, p.kill = context.WithCancel(context.Background())
	p.outR, p.outW = io.Pipe()
	p.errR, p.errW = io.Pipe()
	p.inR, p.inW = io.Pipe()
	return p
}

var errKilled = errors.New("it was killed")

// run starts the program on a goroutine that ends with it; Close waits for that.
func (p *process) run(program Program, to Streams) {
	go func() {
		defer close(p.ended)
		code := program(p.life, to)
		p.report = domain.Report{ExitCode: code, Reason: domain.ReasonExited}
		if p.life.Err() != nil {
			p.report = domain.Report{ExitCode: domain.ExitSignaled(15), Signal: "SIGTERM", Reason: domain.ReasonKilled}
		}
		p.end()
	}()
}

// end closes what the program wrote to and read from.
func (p *process) end() {
	p.shut.Do(func() {
		p.outW.Close()
		p.errW.Close()
		p.inR.CloseWithError(errKilled)
	})
}

func (p *process) Output() io.Reader     { return p.outR }
func (p *process) ErrOutput() io.Reader  { return p.errR }
func (p *process) Stdin() io.WriteCloser { return p.inW }

func (p *process) SetSize(ports.TerminalSize) error { return domain.ErrFeatureNotSupported }

func (p *process) Wait(ctx context.Context) (domain.Report, error) {
	select {
	case <-p.ended:
		return p.report, nil
	case <-ctx.Done():
		return domain.Report{}, context.Cause(ctx)
	}
}

func (p *process) Terminate() error {
	p.terminated.Do(p.kill)
	return nil
}

func (p *process) Kill(context.Context, time.Duration) ([]ports.Survivor, error) {
	return nil, p.Close()
}

func (p *process) Close() error {
	select {
	case <-p.ended: // its output is its reader's still
	default:
		p.kill()
		p.end()
		<-p.ended
	}
	return nil
}

var (
	_ ports.Processes = Programs{}
	_ ports.Shells    = Programs{}
)
