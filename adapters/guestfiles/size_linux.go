package guestfiles

import (
	"io/fs"
	"os"
	"syscall"
)

// sysfsMagic is SYSFS_MAGIC of statfs(2).
const sysfsMagic = 0x62656572

// realSize is the file's size, and 0 where the kernel makes one up: every file of /sys claims a page,
// whatever is in it, and would seem to have shrunk. Reading tells what they hold.
func realSize(file *os.File, info fs.FileInfo) int64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Blocks != 0 || stat.Size == 0 {
		return info.Size()
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return info.Size()
	}
	var system syscall.Statfs_t
	var statErr error
	err = raw.Control(func(fd uintptr) { statErr = syscall.Fstatfs(int(fd), &system) })
	if err == nil && statErr == nil && system.Type == sysfsMagic {
		return 0
	}
	return info.Size()
}
