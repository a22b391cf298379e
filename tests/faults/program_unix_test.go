//go:build unix

package faults

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// outside starts the real guest-tools, with their own times: faults that only time undoes are not for them.
func outside(t *testing.T, folder string) enter {
	tools := tool(t, "guest-tools")
	return func(w *world, c cell, finish <-chan struct{}) (party, error) {
		p := &program{cmd: exec.Command(tools, "--host", w.proxy.Address())}
		p.cmd.Dir = folder
		p.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		p.cmd.Stderr = &p.words
		if err := os.Remove(finishFile(folder, c)); err != nil && !errors.Is(err, os.ErrNotExist) { // the cell's last run's
			return nil, err
		}
		if err := p.cmd.Start(); err != nil {
			return nil, err
		}
		p.finishing.Go(func() {
			<-finish
			p.finishErr = os.WriteFile(finishFile(folder, c), nil, 0o600)
		})
		return p, nil
	}
}

func finishFile(folder string, c cell) string {
	return filepath.Join(folder, fmt.Sprintf("finish-%s-%s-%s", c.endpoint.name, c.kind, c.moment))
}

// program is guest-tools that run.
type program struct {
	cmd       *exec.Cmd
	words     bytes.Buffer
	finishing sync.WaitGroup
	finishErr error
}

func (p *program) leave() []error {
	p.finishing.Wait()
	kill := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
	defer kill.Stop()
	err := errors.Join(p.finishErr, p.cmd.Process.Signal(syscall.SIGTERM), p.cmd.Wait())
	if err != nil {
		return []error{fmt.Errorf("guest-tools: %w\n%s", err, p.words.String())}
	}
	return nil
}

// seen is what the host's own account shows of the guest.
func (p *program) seen(answers []answer) *spy {
	s := &spy{answered: make(map[domain.ActionID]int)}
	for _, a := range answers {
		switch {
		case a.method == http.MethodPut && a.path == wire.PathSuccess:
			s.success++
		case a.path == wire.PathReply && a.status == http.StatusOK:
			s.handed = append(s.handed, domain.ActionID(a.id))
		}
	}
	return s
}

// programCells are one for each endpoint and each fault that needs no time-out.
func programCells() []cell {
	var cells []cell
	kinds := []Kind{Slicing, Reset, CutUp, Latency, CutDown, Pause}
	moments := []Moment{AmidBody, BeforeAnswer, AmidAnswer, Before, After}
	for i, e := range endpoints {
		if e.old {
			continue
		}
		for j := range 2 {
			c := cell{e, kinds[(2*i+j)%len(kinds)], moments[(i+2*j)%len(moments)]}
			if c.moment == AmidBody && e.body == 0 {
				c.moment = AmidHeaders
			}
			if e.ask != "shell" && c.kind == CutDown && c.moment == Before { // as good as AmidAnswer
				c.moment = AmidAnswer
			}
			cells = append(cells, c)
		}
	}
	return cells
}

// TestMatrixOfTheProgram: what holds for a guest of this process holds for the real guest-tools, too.
func TestMatrixOfTheProgram(t *testing.T) {
	leakless(t)
	folder := guestFolder(t)
	guest := outside(t, folder)
	slots := make(chan struct{}, 4)
	var all sync.WaitGroup
	for _, c := range programCells() {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			script := fmt.Sprintf(`seq -f 'log %%06.0f' 0 2999; while [ ! -e '%s' ]; do sleep 0.02; done; seq -f 'log %%06.0f' 3000 3999; exit %d`,
				finishFile(folder, c), c.endpoint.exit)
			for _, err := range c.prove(t, guest, []string{"sh", "-c", script}) {
				t.Errorf("%s: %v", c, err)
			}
		})
	}
	all.Wait()
	t.Logf("%d cells", len(programCells()))
}
