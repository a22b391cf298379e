package processes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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

// tree is a started command with all that comes of it. All but release may run at the same time.
type tree interface {
	terminate() error
	// hangUp tells the command's session that its terminal is gone.
	hangUp()
	// kill is ports.Process.Kill.
	kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error)
	// release gives back what held the tree. It is called once, after the last kill.
	release() error
}

// stream is our end of one of a tree's files.
type stream interface {
	// commandEnded bounds what is still waited for.
	commandEnded()
	// stop ends what waits, and leaves the file open: its closing may be what ends the tree.
	stop()
	// close closes the file, once the tree is gone.
	close() error
}

// standard is the files that a command starts with.
type standard struct {
	in, out, err *os.File
	terminal     bool // they are a terminal, which is to be the command's controlling one
}

// process is a ports.Process.
type process struct {
	output  *output
	streams []stream // output and all the others
	tree    tree
	ended   chan struct{}
	report  domain.Report // set before ended is closed

	closing sync.Once
	closed  error
}

func newProcess(out *output, others ...stream) *process {
	return &process{output: out, streams: append(others, out), ended: make(chan struct{})}
}

// finish is called once, by the tree, when the command itself has ended.
func (p *process) finish(report domain.Report) {
	p.report = report
	close(p.ended)
	for _, s := range p.streams {
		s.commandEnded()
	}
}

// hasEnded tells whether the command itself has.
func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
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
	if p.hasEnded() {
		return nil
	}
	return p.tree.terminate()
}

func (p *process) Kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error) {
	return p.tree.kill(ctx, grace)
}

// Close stops the streams first: whoever uses them must not wait for a tree that takes long to die. It
// closes them last, so that the tree dies of nothing but the kill.
func (p *process) Close() error {
	p.closing.Do(func() {
		for _, s := range p.streams {
			s.stop()
		}
		survivors, err := p.tree.kill(atOnce(), 0)
		if len(survivors) > 0 {
			err = errors.Join(err, fmt.Errorf("%d processes could not be killed, the first of them %d", len(survivors), survivors[0].PID))
		}
		p.closed = errors.Join(err, p.tree.release(), p.closeStreams())
	})
	return p.closed
}

func (p *process) closeStreams() error {
	errs := make([]error, len(p.streams))
	for i, s := range p.streams {
		s.stop()
		errs[i] = s.close()
	}
	return errors.Join(errs...)
}

// atOnce is a context that has ended, which makes a kill ask nobody.
func atOnce() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
