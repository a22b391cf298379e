package processes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// DrainWait is how long Output waits in all for more, once the command has ended.
	DrainWait = 2 * time.Second
	// DrainMost is how many bytes Output delivers at most beyond those that were in it when the command
	// ended, so that a child that writes without pause can't keep it open for ever.
	DrainMost = 16 << 20

	// killPatience is how long a process may take to die of SIGKILL before it is called a survivor: one
	// that is stuck in the kernel may take for ever.
	killPatience = 5 * time.Second
)

// tree is a started command with all that comes of it. The three may run at the same time.
type tree interface {
	terminate() error
	// kill is ports.Process.Kill.
	kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error)
	// release gives back what held the tree. It is called once, after the last kill.
	release() error
}

// process is a ports.Process.
type process struct {
	output *output
	tree   tree
	ended  chan struct{}
	report domain.Report // set before ended is closed

	closing sync.Once
	closed  error
}

func newProcess(out *output) *process {
	return &process{output: out, ended: make(chan struct{})}
}

// finish is called once, by the tree, when the command itself has ended.
func (p *process) finish(report domain.Report) {
	p.report = report
	close(p.ended)
	p.output.commandEnded()
}

func (p *process) Output() io.Reader { return p.output }

func (p *process) Wait(ctx context.Context) (domain.Report, error) {
	select {
	case <-p.ended:
		return p.report, nil
	default:
	}
	select {
	case <-p.ended:
		return p.report, nil
	case <-ctx.Done():
		return domain.Report{}, ctx.Err()
	}
}

func (p *process) Terminate() error {
	select {
	case <-p.ended:
		return nil
	default:
		return p.tree.terminate()
	}
}

func (p *process) Kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error) {
	return p.tree.kill(ctx, grace)
}

// Close closes the output first: whoever reads it must not wait for a tree that takes long to die.
func (p *process) Close() error {
	p.closing.Do(func() {
		err := p.output.Close()
		survivors, killErr := p.tree.kill(atOnce(), 0)
		if len(survivors) > 0 {
			killErr = errors.Join(killErr, fmt.Errorf("%d processes could not be killed, the first of them %d", len(survivors), survivors[0].PID))
		}
		p.closed = errors.Join(err, killErr, p.tree.release())
	})
	return p.closed
}

// atOnce is a context that has ended, which makes a kill ask nobody.
func atOnce() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
