package contract

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// The scripts of the suite Shell. A guest with a POSIX shell runs them as they are; Scripts plays them.
const (
	scriptCat      = "cat"
	scriptCatErr   = "cat 1>&2"
	scriptSucceed  = "exit 0"
	scriptBoth     = "echo out; echo error >&2; exit 3"
	scriptSwallow  = "cat >/dev/null; exit 4"
	scriptLarge    = "head -c 200000 /dev/zero; exit 5"
	scriptErrFirst = "head -c 5242880 /dev/zero >&2 & cat; wait"
	scriptUnwanted = "head -c 5242880 /dev/zero; echo done >&2"
	scriptEndless  = "cat /dev/zero"
	scriptSleep    = "sleep 1000"
	scriptSizes    = "while read line; do stty size; done"
	scriptRaw      = "stty raw -echo; echo ready; head -c 3145735"
)

// scripts are what the scripts above do.
var scripts = map[string]func(*scripted) int{
	scriptCat:     func(p *scripted) int { _, _ = io.Copy(p.stdout, p.stdin); return 0 },
	scriptCatErr:  func(p *scripted) int { _, _ = io.Copy(p.stderr, p.stdin); return 0 },
	scriptSucceed: func(*scripted) int { return 0 },
	scriptBoth: func(p *scripted) int {
		fmt.Fprintln(p.stdout, "out")
		fmt.Fprintln(p.stderr, "error")
		return 3
	},
	scriptSwallow: func(p *scripted) int { _, _ = io.Copy(io.Discard, p.stdin); return 4 },
	scriptLarge:   func(p *scripted) int { zeros(p.stdout, 200000); return 5 },
	scriptErrFirst: func(p *scripted) int {
		var background sync.WaitGroup
		background.Go(func() { zeros(p.stderr, 5<<20) })
		_, _ = io.Copy(p.stdout, p.stdin)
		background.Wait()
		return 0
	},
	scriptUnwanted: func(p *scripted) int {
		zeros(p.stdout, 5<<20)
		fmt.Fprintln(p.stderr, "done")
		return 0
	},
	scriptEndless: func(p *scripted) int { zeros(p.stdout, 1<<62); return 0 },
	scriptSleep:   func(p *scripted) int { <-p.killed; return 0 },
	scriptSizes: func(p *scripted) int {
		for lines := bufio.NewScanner(p.stdin); lines.Scan(); {
			size := p.getSize()
			fmt.Fprintln(p.stdout, size.Rows, size.Columns)
		}
		return 0
	},
	scriptRaw: func(p *scripted) int {
		fmt.Fprintln(p.stdout, "ready")
		_, _ = io.CopyN(p.stdout, p.stdin, 3145735)
		return 0
	},
}

// zeros writes n bytes, or as many as anybody takes.
func zeros(w io.Writer, n int) {
	block := make([]byte, 64<<10)
	for n > 0 {
		written, err := w.Write(block[:min(n, len(block))])
		if err != nil {
			return
		}
		n -= written
	}
}

// Scripts are ports.Shells without processes: they play the scripts of the suite Shell in memory.
type Scripts struct{}

// StartShell implements ports.Shells.
func (Scripts) StartShell(spec ports.ProcessSpec) (ports.ShellProcess, error) {
	if len(spec.Command) != 3 || scripts[spec.Command[2]] == nil {
		return nil, &ports.StartError{ExitCode: 127, Err: fmt.Errorf("%q is not found", spec.Command)}
	}
	p := &scripted{ended: make(chan struct{}), killed: make(chan struct{})}
	p.stdin, p.in = io.Pipe()
	p.out, p.stdout = io.Pipe()
	if spec.Terminal != nil {
		p.size, p.terminal, p.stderr = *spec.Terminal, true, p.stdout
	} else {
		p.errOut, p.stderr = io.Pipe()
	}
	go func() {
		defer close(p.ended)
		p.code = scripts[spec.Command[2]](p)
		p.closePipes()
	}()
	return p, nil
}

// scripted is a script that is being played.
type scripted struct {
	stdin          *io.PipeReader
	stdout, stderr *io.PipeWriter
	in             *io.PipeWriter
	out, errOut    *io.PipeReader
	terminal       bool

	ended chan struct{}
	code  int // once it has ended

	killed   chan struct{}
	killOnce sync.Once

	mu   sync.Mutex
	size ports.TerminalSize
}

var _ ports.ShellProcess = (*scripted)(nil)

func (p *scripted) closePipes() {
	p.stdin.Close()
	p.stdout.Close()
	p.stderr.Close()
}

func (p *scripted) Output() io.Reader     { return p.out }
func (p *scripted) Stdin() io.WriteCloser { return p.in }
func (p *scripted) Terminate() error      { return nil }

func (p *scripted) ErrOutput() io.Reader {
	if p.terminal {
		return nil
	}
	return p.errOut
}

func (p *scripted) SetSize(size ports.TerminalSize) error {
	if !p.terminal {
		return domain.ErrFeatureNotSupported
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size = size
	return nil
}

func (p *scripted) getSize() ports.TerminalSize {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

func (p *scripted) Wait(ctx context.Context) (domain.Report, error) {
	select {
	case <-p.ended:
	case <-ctx.Done():
		return domain.Report{}, context.Cause(ctx)
	}
	select {
	case <-p.killed:
		return domain.Report{ExitCode: domain.ExitSignaled(9), Signal: "SIGKILL", Reason: domain.ReasonKilled}, nil
	default:
		return domain.Report{ExitCode: p.code, Reason: domain.ReasonExited}, nil
	}
}

func (p *scripted) Kill(_ context.Context, _ time.Duration) ([]ports.Survivor, error) {
	select {
	case <-p.ended:
		return nil, nil
	default:
	}
	p.killOnce.Do(func() { close(p.killed) })
	p.closePipes()
	<-p.ended
	return nil, nil
}

func (p *scripted) Close() error {
	_, err := p.Kill(context.Background(), 0)
	return errors.Join(err, p.in.Close())
}
