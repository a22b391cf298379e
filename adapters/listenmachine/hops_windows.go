package listenmachine

import "syscall"

func setHops(fd uintptr, level, option, hops int) error {
	return syscall.SetsockoptInt(syscall.Handle(fd), level, option, hops)
}
