package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func platformProblem() error { return nil }

// startCommand starts a program that ends when this process does, however that ends.
func startCommand(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // a terminal's Ctrl-C is not for it, and what it starts is found by its group
		Pdeathsig: syscall.SIGKILL, // even if we are killed
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() { // ends with the program
		// The signal comes when the thread ends that started it, which so must not end before.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.reap()
			close(p.exited)
		}
	}()
	return p, <-started
}

// runCommand runs a program to its end, which is this process's at the latest, however that ends.
func runCommand(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// As in startCommand.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// reap waits for the program's end, and ends what it has started and left. Until the program's state is
// taken, its number can't be another's, nor can its group's.
func (p *process) reap() {
	pid := p.cmd.Process.Pid
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = signalGroup(pid, syscall.SIGKILL)
	_ = p.cmd.Wait() // its state tells
	p.reaped = true
}

// signalGroup signals each process of a group. One without any is no error.
func signalGroup(leader int, signal syscall.Signal) error {
	if err := syscall.Kill(-leader, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return os.NewSyscallError("kill", err)
	}
	return nil
}

// holders are the processes, beside this one, that have a pipe open whose one end this is, by their ids.
func holders(pipe *os.File) []int {
	info, err := pipe.Stat()
	if err != nil {
		return nil
	}
	link := fmt.Sprintf("pipe:[%d]", info.Sys().(*syscall.Stat_t).Ino)
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	var found []int
	for _, file := range files {
		if open, err := os.Readlink(file); err != nil || open != link {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(file))))
		if err == nil && pid != os.Getpid() && (len(found) == 0 || found[len(found)-1] != pid) {
			found = append(found, pid)
		}
	}
	return found
}

// openNameless makes a file in a folder that has no name there, ever: nothing is left of it once nobody has
// it open. File systems that can't do so are left with its name for a moment.
func openNameless(folder string) (*os.File, error) {
	file, err := os.OpenFile(folder, os.O_RDWR|unix.O_TMPFILE|os.O_EXCL, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return openAndRemove(folder)
	}
	return file, err
}

// socketPair makes the two ends of a guest's card: ours, and the one that QEMU inherits.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "card"), os.NewFile(uintptr(fds[1]), "card")
	conn, err := net.FileConn(ours)
	ours.Close() // the connection has a copy
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}
