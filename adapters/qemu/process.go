package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"
)

// killPatience is how long a killed program may take to be gone.
const killPatience = 10 * time.Second

// process is QEMU, while it runs and after.
type process struct {
	cmd     *exec.Cmd
	console *os.File // what it says at the guest's console, to be read to its end
	stderr  *os.File
	exited  chan struct{} // closed when it has
}

// startQEMU starts QEMU with its end of the guest's card. Ours is the connection.
func startQEMU(program string, args []string, folder string) (p *process, card net.Conn, err error) {
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
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = consoleIn, stderrIn, []*os.File{theirs}
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

// signal sends one, if it still runs.
func (p *process) signal(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// kill ends it, and waits for its end.
func (p *process) kill() error {
	err := p.signal(os.Kill)
	patience := time.NewTimer(killPatience)
	defer patience.Stop()
	select {
	case <-p.exited:
		return nil
	case <-patience.C:
		return errors.Join(fmt.Errorf("QEMU, process %d, could not be killed", p.cmd.Process.Pid), err)
	}
}
