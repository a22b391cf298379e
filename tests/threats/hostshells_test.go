//go:build linux

package threats

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hexworker/metaservice"
)

// shellTable are a host's shells, by number.
type shellTable struct {
	mu  sync.Mutex // guards what follows
	all map[int]metaservice.ShellSession
}

func (s *shellTable) add(session metaservice.ShellSession) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[int]metaservice.ShellSession)
	}
	n := len(s.all) + 1
	s.all[n] = session
	return n
}

func (s *shellTable) get(n int) (metaservice.ShellSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session, ok := s.all[n]; ok {
		return session, nil
	}
	return nil, fmt.Errorf("there is no shell %d", n)
}

func (s *shellTable) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.all {
		session.Abort()
	}
}

// OpenShell is what a shell is opened with.
type OpenShell struct {
	Guest   int
	Command []string
	TTY     bool
	Within  time.Duration
}

// Opened is what became of it.
type Opened struct {
	Failure
	Shell int // for the calls below
	Took  time.Duration
}

// OpenShell opens a shell.
func (h *Host) OpenShell(open OpenShell, opened *Opened) error {
	ctx, cancel := Ask{Within: open.Within}.context()
	defer cancel()
	begun := time.Now()
	session, err := h.services[open.Guest].Shell(ctx, metaservice.ShellSpec{Command: open.Command, TTY: open.TTY})
	opened.Took, opened.Failure = time.Since(begun), failure(err)
	if err == nil {
		opened.Shell = h.shells.add(session)
	}
	return nil
}

// ShellDone is how a call on a shell ended.
type ShellDone struct {
	Failure
	Success bool
	Bytes   int64
	Took    time.Duration
}

// shellCall makes one call on a shell.
func (h *Host) shellCall(n int, done *ShellDone, call func(metaservice.ShellSession) error) error {
	session, err := h.shells.get(n)
	if err != nil {
		return err
	}
	begun := time.Now()
	done.Failure = failure(call(session))
	done.Took = time.Since(begun)
	return nil
}

// WaitShell waits for a shell's end.
func (h *Host) WaitShell(n int, done *ShellDone) error {
	return h.shellCall(n, done, func(s metaservice.ShellSession) error {
		result, err := s.Result(context.Background())
		done.Success = result.Success
		return err
	})
}

// AbortShell aborts one.
func (h *Host) AbortShell(n int, done *ShellDone) error {
	return h.shellCall(n, done, metaservice.ShellSession.Abort)
}

// ReadShell reads a shell's standard output to its end, and drops it.
func (h *Host) ReadShell(n int, done *ShellDone) error {
	return h.shellCall(n, done, func(s metaservice.ShellSession) (err error) {
		done.Bytes, err = io.Copy(io.Discard, s.StdoutPipe())
		return err
	})
}

// WriteShell is bytes for a shell's standard input.
type WriteShell struct {
	Shell int
	Bytes int // so many of them
}

// WriteShell writes to a shell's standard input.
func (h *Host) WriteShell(write WriteShell, done *ShellDone) error {
	return h.shellCall(write.Shell, done, func(s metaservice.ShellSession) error {
		n, err := s.StdinPipe().Write(make([]byte, write.Bytes))
		done.Bytes = int64(n)
		return err
	})
}
