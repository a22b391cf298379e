//go:build unix

package listenmachine

import "syscall"

func setHops(fd uintptr, level, option, hops int) error {
	return syscall.SetsockoptInt(int(fd), level, option, hops)
}
