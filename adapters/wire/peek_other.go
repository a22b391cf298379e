//go:build !unix

package wire

import "syscall"

// hungUp can't be told here before net/http does.
func hungUp(syscall.RawConn) bool { return false }
