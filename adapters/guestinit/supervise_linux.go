package guestinit

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// action is how a machine ends.
type action int

const (
	powerOff action = unix.LINUX_REBOOT_CMD_POWER_OFF
	reboot   action = unix.LINUX_REBOOT_CMD_RESTART
)

// Times that an end takes at most: guest-tools give the task 5 s, and the log 2 s more.
const (
	childPatience = 10 * time.Second
	killPatience  = 2 * time.Second
)

// rtmin is SIGRTMIN as C libraries count, which keep two for themselves. Signals that end a container's
// init are counted from it.
const rtmin = syscall.Signal(34)

// told is what each signal tells init to do.
var told = map[os.Signal]action{
	unix.SIGUSR1: powerOff, // halt
	unix.SIGUSR2: powerOff,
	unix.SIGPWR:  powerOff,
	rtmin + 3:    powerOff, // halt
	rtmin + 4:    powerOff,
	unix.SIGTERM: reboot,
	unix.SIGINT:  reboot, // Ctrl-Alt-Del
	rtmin + 5:    reboot,
}

// meaningless are signals that Go programs end on, and which mean nothing to init: nobody is to end it by
// them, since the kernel panics then. Ignoring them would make the task ignore them, too.
var meaningless = []os.Signal{
	unix.SIGHUP, unix.SIGQUIT, unix.SIGABRT, unix.SIGALRM, unix.SIGPIPE, unix.SIGTRAP, unix.SIGSYS, unix.SIGSTKFLT,
	unix.SIGVTALRM, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGSEGV,
}

// command is what init runs.
type command struct {
	args, env []string
	dir       string
}

// supervise starts a command, reaps whatever ends, and returns when the command has ended or a signal
// told to end: then the command was asked to, and had its time.
//
// It waits for all children at once, which would take the exit status from an os/exec in this process:
// that's why guest-tools proper are a child, and init does nothing else.
func supervise(c command) (action, error) {
	signals := make(chan os.Signal, 8)
	for s := range told {
		signal.Notify(signals, s)
	}
	signal.Notify(make(chan os.Signal, 1), meaningless...)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // Ctrl-Alt-Del is SIGINT for us, no reset
	child, err := syscall.ForkExec(c.args[0], c.args, &syscall.ProcAttr{
		Dir: c.dir, Env: c.env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return powerOff, fmt.Errorf("%s can't be started: %w", c.args[0], err)
	}
	ended := reap(child)
	select {
	case status := <-ended:
		return powerOff, fmt.Errorf("guest-tools ended: %s", describe(status))
	case s := <-signals:
		_ = unix.Kill(child, unix.SIGTERM)
		select {
		case <-ended:
		case <-time.After(childPatience):
		}
		return told[s], nil
	}
}

// reap waits for every child there is and will be, until there is none. It tells when this one has ended.
func reap(child int) <-chan unix.WaitStatus {
	ended := make(chan unix.WaitStatus, 1)
	go reapAll(func(pid int, status unix.WaitStatus) {
		if pid == child {
			ended <- status
		}
	})
	return ended
}

// reapAll waits for children until there is none.
func reapAll(each func(pid int, status unix.WaitStatus)) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return
		case err == nil:
			each(pid, status)
		}
	}
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// end ends everything, writes what is not on the disks yet, and then the machine ends.
func end(act action) {
	killAll()
	unix.Sync()
	// A disk that is mounted may be somebody's to keep.
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	err := unix.Reboot(int(act))
	say("the machine can't be ended: %v", err) // and so the kernel panics, which ends it, too
	os.Exit(1)
}

// killAll asks all other processes to end, and then makes them. kill(2) can't tell whether there are any:
// it counts the kernel's threads. But all are children of init once their own parents are gone.
func killAll() {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		reapAll(func(int, unix.WaitStatus) {})
	}()
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		_ = unix.Kill(-1, signal)
		select {
		case <-gone:
			return
		case <-time.After(killPatience):
		}
	}
}
