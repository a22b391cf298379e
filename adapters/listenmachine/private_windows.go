package listenmachine

import "syscall"

// privately leaves the socket to the permissions of its folder: Windows has no others for it.
func privately(_, _ string, _ syscall.RawConn) error { return nil }
