package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount is one of the file systems that a task expects.
type mount struct {
	fstype, target, options string
	flags                   uintptr
	required                bool // nothing goes on without it
}

// mounts are in order: some lie in others.
var mounts = []mount{
	{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
	{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
	{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID, true},
	{"devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC, false},
	{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, false},
	{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV, true},
	{"tmpfs", "/tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, false},
	{"cgroup2", "/sys/fs/cgroup", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, false},
}

// devLinks are links in /dev that the kernel leaves to others.
var devLinks = map[string]string{
	"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
}

// mountAll mounts what isn't mounted already.
func mountAll() error {
	for _, m := range mounts {
		err := m.mount()
		switch {
		case err != nil && m.required:
			return err
		case err != nil:
			say("%v", err)
		}
	}
	for name, target := range devLinks {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, fs.ErrExist) {
			say("%v", err)
		}
	}
	return nil
}

func (m mount) mount() error {
	if isMountPoint(m.target) {
		return nil
	}
	err := os.Mkdir(m.target, 0o755) // below /sys it is there, or can't be made
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("no %s: %w", m.target, err)
	}
	if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.options); err != nil {
		return fmt.Errorf("%s can't be mounted at %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// isMountPoint tells whether a folder is on another device than the one it is in. There may be no /proc
// to ask.
func isMountPoint(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}
