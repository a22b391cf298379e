//go:build !linux

package qemu

import (
	"errors"
	"net"
	"os"
	"os/exec"
)

var errPlatform = errors.New("virtual machines need a Linux host, where they end with the process that started them")

func platformProblem() error { return errPlatform }

func startCommand(*exec.Cmd) (*process, error) { return nil, errPlatform }

func socketPair() (net.Conn, *os.File, error) { return nil, nil, errPlatform }
