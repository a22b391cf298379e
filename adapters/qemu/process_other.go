//go:build !linux

package qemu

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
)

var errPlatform = errors.New("virtual machines need a Linux host, where they end with the process that started them")

func platformProblem() error { return errPlatform }

func startCommand(*exec.Cmd) (*process, error) { return nil, errPlatform }

func runCommand(*exec.Cmd) error { return errPlatform }

func socketPair() (net.Conn, *os.File, error) { return nil, nil, errPlatform }

func signalGroup(int, syscall.Signal) error { return errPlatform }

func holders(*os.File) []int { return nil }

func openNameless(string) (*os.File, error) { return nil, errPlatform }
