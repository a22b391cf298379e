package processes

import (
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// firstInherited is the descriptor after the standard three.
const firstInherited = 3

// HideInherited hides from the programs that this one starts which files it was itself started with: a
// caller may have left some of its own open, and they are none of a task's business. A program calls it
// first of all in its main.
func HideInherited() {
	// Kernels before 5.11 don't know the flag.
	if unix.CloseRange(firstInherited, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	for _, fd := range openFiles() {
		unix.CloseOnExec(fd)
	}
}

// openFiles lists the descriptors from firstInherited on; where there is no /proc, all that may be open.
func openFiles() []int {
	var fds []int
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, entry := range entries {
			if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= firstInherited {
				fds = append(fds, fd)
			}
		}
		return fds
	}
	most := unix.Rlimit{Cur: 1 << 16}
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &most)
	for fd := firstInherited; fd < int(min(most.Cur, 1<<16)); fd++ {
		fds = append(fds, fd)
	}
	return fds
}
