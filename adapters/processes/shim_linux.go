package processes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ShimGrace is how long a tree has to end by itself when the one who started it has died.
const ShimGrace = 7 * time.Second

// ShimMain is the shim: it holds one tree for a Starter in another process, which ran this program under
// Config.Shim. It returns the program's exit code, once the tree is gone. It takes no arguments, and is
// of no use to anybody else.
func ShimMain(args []string) int {
	if len(args) > 0 || !isSocket(shimControl) {
		fmt.Fprintln(os.Stderr, "this holds the processes of a task: it is for this program's own use, and takes no arguments")
		return 2
	}
	HideInherited() // the control and the command's files among them
	// All that can be caught is, and dropped, for a shim must outlive what it holds. Ignoring them
	// would make the command ignore them too.
	signal.Notify(make(chan os.Signal, 1))
	_ = unix.SetNonblock(shimControl, true) // so that what can't be delivered doesn't hold a thread
	control := os.NewFile(shimControl, "control")
	defer control.Close()
	s := &shim{control: control, reaped: make(chan struct{}), gone: make(chan struct{})}
	return s.run()
}

func isSocket(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil
}

// shim holds one tree: it is the parent of its command and of its orphans.
type shim struct {
	control *os.File
	writing sync.Mutex // guards control's writing side, so that lines stay whole
	command int        // its pid
	first   stat       // the command when it was young; zero where there is no /proc
	killer  *killer
	reaped  chan struct{} // closed when the command has been
	gone    chan struct{} // closed when all of the tree has been

	mu      sync.Mutex
	waiting map[int]context.CancelFunc // guarded by mu: kills that may be told to hurry
}

func (s *shim) run() int {
	requests := json.NewDecoder(s.control)
	var start shimStart
	if err := requests.Decode(&start); err != nil {
		return 2
	}
	if err := s.start(start); err != nil {
		event := shimEvent{Event: eventFailed, Error: err.Error()}
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			event.Errno = int(errno)
		}
		s.tell(event)
		return 0
	}
	go s.serve(requests)
	s.reap()
	return 0
}

func (s *shim) start(start shimStart) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of the tree's orphans: %w", err)
	}
	cmd := &command{credential: start.Credential}
	pid, err := syscall.ForkExec(string(start.Path), toStrings(start.Args), &syscall.ProcAttr{
		Dir:   string(start.Dir),
		Env:   toStrings(start.Env),
		Files: []uintptr{shimInput, shimOutput, shimErrors},
		// No Pdeathsig: should somebody kill the shim, then what remains of the tree is found by way of the
		// command, as long as that lives.
		Sys: cmd.attributes(start.Terminal),
	})
	// The tree's output ends when nobody can write it any more, and what it no longer reads can't be written
	// to it: nor may the shim.
	for _, fd := range [...]int{shimInput, shimOutput, shimErrors} {
		_ = unix.Close(fd)
	}
	if err != nil {
		return err
	}
	self := os.Getpid()
	s.command = pid
	s.killer = newKiller(&shimTree{
		procTree: procTree{own: func(p stat) bool { return p.parent == self }, group: pid},
		gone:     s.gone,
	}, func() bool { return commandAlive(pid, s.reaped) })
	s.first, _ = readStat(pid)
	s.tell(shimEvent{Event: eventStarted, PID: pid, Start: s.first.start})
	return nil
}

// shimTree is a procTree whose end the shim knows better than /proc does.
type shimTree struct {
	procTree
	gone chan struct{}
}

func (t *shimTree) empty() bool {
	select {
	case <-t.gone:
		return true
	default:
		return false
	}
}

// reap takes the dead off the tree until none of it is left: as long as there are descendants, there
// are children.
func (s *shim) reap() {
	defer close(s.gone)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return
		case pid == s.command:
			killed := s.killer.killed.Load()
			close(s.reaped)
			s.tell(shimEvent{Event: eventExited, Status: uint32(status), Killed: killed})
		}
	}
}

// serve obeys requests until the one who makes them is gone, and the tree must be too.
func (s *shim) serve(requests *json.Decoder) {
	for {
		var r shimRequest
		if err := requests.Decode(&r); err != nil {
			break
		}
		switch r.Op {
		case opTerminate:
			s.terminate()
		case opKill:
			ctx, cancel := context.WithCancel(context.Background())
			s.wait(r.ID, cancel)
			go s.kill(ctx, r)
		case opHurry:
			s.hurry(r.ID)
		}
	}
	s.killer.kill(context.Background(), ShimGrace)
	if !s.killer.holder.empty() {
		os.Exit(1) // what SIGKILL didn't end won't end for want of a shim either
	}
}

func (s *shim) terminate() {
	switch {
	case s.first.pid != 0:
		send(s.first, syscall.SIGTERM)
	case commandAlive(s.command, s.reaped):
		_ = syscall.Kill(s.command, syscall.SIGTERM)
	}
}

func (s *shim) wait(id int, cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = make(map[int]context.CancelFunc)
	}
	s.waiting[id] = cancel
}

func (s *shim) hurry(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel, ok := s.waiting[id]; ok {
		cancel()
		delete(s.waiting, id)
	}
}

func (s *shim) kill(ctx context.Context, r shimRequest) {
	survivors := s.killer.kill(ctx, r.Grace)
	s.hurry(r.ID)
	s.tell(shimEvent{Event: eventKilled, ID: r.ID, Survivors: survivors})
}

// tell is best effort: when there is nobody to hear, serve learns it.
func (s *shim) tell(event shimEvent) {
	line, err := json.Marshal(event)
	if err != nil {
		return
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	_, _ = s.control.Write(append(line, '\n'))
}
