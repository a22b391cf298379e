package processes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// shimStartPatience is for a shim to say that its command has started.
	shimStartPatience = 30 * time.Second
	// shimPatience is for a shim to answer, beyond the time that it was given and that the dead need. One
	// that doesn't is stuck, or was stopped by the tree that it holds.
	shimPatience = killPatience + 5*time.Second
	// shimDeath is how long a shim may take to die of SIGKILL when there is a hurry.
	shimDeath = time.Second
)

// shimProcess is the shim's *os.Process.
type shimProcess interface {
	Kill() error
	Signal(os.Signal) error
	Wait() (*os.ProcessState, error)
}

// lifeline is a tree that a shim holds, as seen by the one who started it. When its end of the control
// socket closes, the shim ends the tree.
type lifeline struct {
	shim    shimProcess
	pid     int     // the shim's
	tree    *strays // what of the tree can be found without it
	control *os.File
	gone    chan struct{}    // closed when the shim has ended, and what it left has been dealt with
	left    []ports.Survivor // set before gone is closed

	writing sync.Mutex // guards control's writing side, so that lines stay whole

	mu    sync.Mutex
	next  int                             // guarded by mu: the ID of the next kill
	kills map[int]chan<- []ports.Survivor // guarded by mu: who waits for which
}

// startShim starts a command under a shim. Its errors are *ports.StartError.
func startShim(line []string, cmd *command, files standard, ended func(domain.Report)) (tree, error) {
	written, err := files.written()
	if err != nil {
		return nil, cmd.failed(err)
	}
	l, err := runShim(line, files)
	if err != nil {
		return nil, startError(domain.ExitNotExecutable, "start the shim %s, which is to hold the command: %w", domain.Quote(line[0]), err)
	}
	start := shimStart{
		Path: []byte(cmd.path), Args: toBytes(cmd.args), Env: toBytes(cmd.env), Dir: []byte(cmd.dir),
		Credential: cmd.credential, Terminal: files.terminal,
	}
	// A deadline: Config.Shim may name a program that isn't one.
	_ = l.control.SetDeadline(time.Now().Add(shimStartPatience))
	err = l.tell(start)
	events := json.NewDecoder(l.control)
	var first shimEvent
	if err == nil {
		err = events.Decode(&first)
	}
	if err == nil && first.Event == eventStarted {
		_ = l.control.SetDeadline(time.Time{})
		l.tree = &strays{command: first.PID, start: first.Start, written: written}
		go l.listen(events, ended)
		return l, nil
	}
	_ = l.shim.Kill()
	state, _ := l.shim.Wait()
	l.control.Close()
	switch {
	case err != nil:
		(&strays{written: written}).kill() // a command may have killed it before it could tell
		return nil, startError(domain.ExitNotExecutable, "the shim %s did not start the command, and ended with %s: does its command line call ShimMain? %w", domain.Quote(line[0]), state, err)
	case first.Errno != 0:
		return nil, cmd.failed(syscall.Errno(first.Errno))
	}
	return nil, cmd.failed(errors.New(first.Error))
}

func runShim(line []string, files standard) (*lifeline, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	_ = unix.SetNonblock(pair[0], true) // for deadlines
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	shim, err := os.StartProcess(line[0], line, &os.ProcAttr{
		// Nothing of ours: our secrets are not the task's, and a shim as a process of the task's user could
		// be looked into.
		Env:   []string{},
		Files: []*os.File{null, null, null, shimControl: theirs, shimInput: files.in, shimOutput: files.out, shimErrors: files.err},
		Sys:   &syscall.SysProcAttr{Setsid: true}, // away from signals to our group, and to the task's
	})
	if err != nil {
		ours.Close()
		return nil, err
	}
	return &lifeline{shim: shim, pid: shim.Pid, control: ours, gone: make(chan struct{}), kills: make(map[int]chan<- []ports.Survivor)}, nil
}

// listen takes in what the shim tells until it ends. It calls ended, once.
func (l *lifeline) listen(events *json.Decoder, ended func(domain.Report)) {
	defer close(l.gone)
	exited := false
	for {
		var event shimEvent
		if events.Decode(&event) != nil {
			break
		}
		switch event.Event {
		case eventExited:
			if !exited {
				exited = true
				ended(end{status: syscall.WaitStatus(event.Status), killed: event.Killed}.report())
			}
		case eventKilled:
			l.answer(event.ID, event.Survivors)
		}
	}
	state, err := l.shim.Wait()
	if err != nil || !state.Success() || !exited {
		l.left = l.tree.kill()
	}
	if !exited {
		ended(lost(fmt.Sprintf("its shim ended (%s), and the command was killed: a process with the shim's rights must have killed it", state)))
	}
}

func (l *lifeline) answer(id int, survivors []ports.Survivor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if waiter, ok := l.kills[id]; ok {
		waiter <- survivors
		delete(l.kills, id)
	}
}

// call notes a kill that waits for its answer. The answer never blocks.
func (l *lifeline) call() (id int, answer <-chan []ports.Survivor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiter := make(chan []ports.Survivor, 1)
	l.next++
	l.kills[l.next] = waiter
	return l.next, waiter
}

func (l *lifeline) tell(message any) error {
	var line bytes.Buffer
	if err := json.NewEncoder(&line).Encode(message); err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	_, err := l.control.Write(line.Bytes())
	return err
}

func (l *lifeline) ask(r shimRequest) error {
	_ = l.shim.Signal(syscall.SIGCONT) // what it holds may have stopped it
	_ = l.control.SetWriteDeadline(time.Now().Add(shimPatience))
	return l.tell(r)
}

func (l *lifeline) terminate() error {
	if err := l.ask(shimRequest{Op: opTerminate}); err != nil && !l.isGone() {
		return fmt.Errorf("ask the shim to end the command: %w", err)
	}
	return nil
}

// hangUp needs no shim.
func (l *lifeline) hangUp() { hangUpSession(l.tree.command) }

func (l *lifeline) isGone() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

func (l *lifeline) kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error) {
	if ctx.Err() != nil {
		grace = 0
	}
	id, answer := l.call()
	_ = l.ask(shimRequest{Op: opKill, ID: id, Grace: grace}) // if it fails, the shim is gone or stuck
	stuck := time.NewTimer(max(grace, 0) + shimPatience)
	defer stuck.Stop()
	over := ctx.Done()
	patience := shimPatience // for a shim that was killed
	for killed := 0; ; {
		select {
		case survivors := <-answer:
			if len(survivors) > 0 {
				return survivors, nil
			}
			answer = nil // an empty tree's shim ends, too
		case <-l.gone:
			return l.left, nil
		case <-over:
			over, patience = nil, shimDeath
			if killed > 0 {
				stuck.Reset(patience)
				continue
			}
			_ = l.ask(shimRequest{Op: opHurry, ID: id})
			stuck.Reset(shimPatience)
		case <-stuck.C:
			switch killed++; {
			case killed == 1:
				_ = l.shim.Kill() // then listen kills the tree in its place
				stuck.Reset(patience)
			case killed == 2 && !alive(l.pid):
				stuck.Reset(shimPatience) // listen is at it
			default:
				return l.giveUp(), nil
			}
		}
	}
}

// alive tells whether there is a process that is no zombie.
func alive(pid int) bool {
	s, err := readStat(pid)
	return err == nil && !s.dead()
}

// giveUp is for a shim that even SIGKILL doesn't end, since it is held in the kernel: it kills what it finds
// of the tree, and returns the rest, which the shim is of.
func (l *lifeline) giveUp() []ports.Survivor {
	left := l.tree.kill()
	if s, err := readStat(l.pid); err == nil && !s.dead() {
		left = append(left, ports.Survivor{PID: s.pid, Command: s.command})
	}
	return left
}

// release hangs up, upon which a shim with survivors tries once more, alone, and ends.
func (l *lifeline) release() error {
	return l.control.Close()
}
