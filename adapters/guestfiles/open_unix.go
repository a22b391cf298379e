//go:build unix

package guestfiles

import (
	"errors"
	"syscall"
)

const (
	// openFlags keeps an open from waiting for a FIFO's other end, and from making a terminal ours.
	openFlags   = syscall.O_NONBLOCK | syscall.O_NOCTTY
	folderFlags = openFlags | syscall.O_NOFOLLOW | syscall.O_DIRECTORY
)

// replaced tells that a folder is none any more.
func replaced(err error) bool {
	return errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}
