package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// killPatience is how long a killed program may take to be gone.
const killPatience = 10 * time.Second

// process is QEMU, while it runs and after, with all that is in its process group: where the program is a
// script that starts QEMU, both are.
type process struct {
	cmd     *exec.Cmd
	console *os.File // what it says at the guest's console, to be read to its end
	stderr  *os.File
	exited  chan struct{} // closed when it has, and its group has been killed

	mu     sync.Mutex
	reaped bool // guarded by mu: its number, which is its group's too, may be another's
}

// startQEMU starts QEMU with its end of the guest's card. Ours is the connection. What else it inherits
// stays the caller's to close.
func startQEMU(program string, args []string, folder string, extra inherited) (p *process, card net.Conn, err error) {
	var undo []func() error
	defer func() {
		if err != nil {
			for _, u := range undo {
				_ = u()
			}
		}
	}()
	card, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	undo = append(undo, card.Close)
	defer theirs.Close()
	console, consoleIn, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	undo = append(undo, console.Close)
	defer consoleIn.Close()
	stderr, stderrIn, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	undo = append(undo, stderr.Close)
	defer stderrIn.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = consoleIn, stderrIn, []*os.File{theirs, extra.overlay, extra.token}
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "TMPDIR=" + folder} // none of the host's secrets
	p, err = startCommand(cmd)
	if err != nil {
		return nil, nil, err
	}
	p.console, p.stderr = console, stderr
	return p, card, nil
}

// state says how it ended; call it when it has.
func (p *process) state() string { return p.cmd.ProcessState.String() }

// signal sends one to all of its group, if it still runs.
func (p *process) signal(signal syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return nil
	}
	return signalGroup(p.cmd.Process.Pid, signal)
}

// kill ends it and its group, and waits for its end.
func (p *process) kill() error {
	err := p.signal(syscall.SIGKILL)
	patience := time.NewTimer(killPatience)
	defer patience.Stop()
	select {
	case <-p.exited:
		return nil
	case <-patience.C:
		return errors.Join(fmt.Errorf("QEMU, process %d, could not be killed", p.cmd.Process.Pid), err)
	}
}
