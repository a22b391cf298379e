package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// guard is a process that puts the terminal back if this one is killed, or ends by a defect.
type guard struct {
	cmd    *exec.Cmd
	line   *os.File // it acts when this breaks
	fd     int
	states guardedStates
}

// guardedStates are what a guard is told: the terminal is put back only where nobody else has changed it.
type guardedStates struct{ Before, Raw unix.Termios }

// newGuard starts a guard for a terminal that is about to be raw; nil is none, without which all else works.
func newGuard(fd int) *guard {
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil
	}
	defer theirs.Close()
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		ours.Close()
		return nil
	}
	terminal := os.NewFile(uintptr(copied), "terminal")
	defer terminal.Close()
	cmd := exec.Command(self, guardCommand)
	cmd.Stdin, cmd.Stdout = theirs, terminal
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are not for it, nor do they stop it
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil
	}
	return &guard{cmd: cmd, line: ours, fd: fd, states: guardedStates{Before: *before}}
}

// watch has the guard act from now on: the terminal is raw.
func (g *guard) watch() {
	if g == nil {
		return
	}
	if raw, err := unix.IoctlGetTermios(g.fd, unix.TCGETS); err == nil {
		g.states.Raw = *raw
		_ = json.NewEncoder(g.line).Encode(g.states) // one that is gone guards nothing
	}
}

// end ends the guard, once the terminal is back.
func (g *guard) end() {
	if g == nil {
		return
	}
	g.line.Close()
	_ = g.cmd.Wait() // how it ended is of no interest
}

// guardMain is the guard: the line is its standard input, the terminal its standard output.
func guardMain() int {
	var states guardedStates
	decoder := json.NewDecoder(os.Stdin)
	if err := decoder.Decode(&states); err != nil {
		return 0 // the terminal never was raw
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	fd := int(os.Stdout.Fd())
	if now, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil || *now != states.Raw {
		return 0
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &states.Before); err != nil {
		return 1
	}
	return 0
}
