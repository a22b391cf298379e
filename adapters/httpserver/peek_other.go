//go:build !unix

package httpserver

import "syscall"

// hungUp can't be told here before net/http does.
func hungUp(syscall.RawConn) bool { return false }
