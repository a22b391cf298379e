package qemu

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

func platformProblem() error { return nil }

// startCommand starts a program that ends when this process does, however that ends. exited is closed at
// its end, with what Wait then says in err.
func startCommand(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // a terminal's Ctrl-C is not for it
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
			_ = cmd.Wait() // its state tells
			close(p.exited)
		}
	}()
	return p, <-started
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
