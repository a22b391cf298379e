package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	newRoot      = "/newroot"
	rootFS       = "ext4"
	rootPatience = 10 * time.Second
)

// inInitramfs tells whether / is the kernel's first file system, which lives in memory: what comes from
// a disk has no other to go on to.
func inInitramfs() bool {
	var root unix.Statfs_t
	return unix.Statfs("/", &root) == nil && (root.Type == unix.RAMFS_MAGIC || root.Type == unix.TMPFS_MAGIC)
}

// switchRoot goes on from a disk: it mounts it in place of the initramfs, whose memory it frees, and
// executes the disk's own init. It returns only when that fails.
func switchRoot(o options) error {
	if err := awaitDevice(o.root, rootPatience); err != nil {
		return err
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(o.root, newRoot, rootFS, 0, ""); err != nil {
		return fmt.Errorf("the disk %s can't be mounted as %s: %w", o.root, rootFS, err)
	}
	program, err := findInit(newRoot, o.init)
	if err != nil {
		return err
	}
	if err := takeResolvers(newRoot); err != nil {
		say("the disk keeps its own %s: %v", resolvFile, err)
	}
	if err := moveMounts(newRoot); err != nil {
		return err
	}
	if err := empty("/"); err != nil {
		say("the initramfs keeps some of its memory: %v", err)
	}
	if err := enter(newRoot); err != nil {
		return err
	}
	return fmt.Errorf("%s of the disk can't be executed: %w", program, unix.Exec(program, []string{"init"}, environment))
}

func awaitDevice(name string, patience time.Duration) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if info, err := os.Stat(name); err == nil && info.Mode().Type() == fs.ModeDevice {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("there was no disk %s in %v", name, patience)
		}
	}
}

// findInit is the disk's init: the one that was named, else guest-tools, else what is init there. A link
// in it may be an absolute one, so it is only looked at, not followed.
func findInit(root, named string) (string, error) {
	candidates := []string{"/sbin/guest-tools", "/usr/sbin/guest-tools", "/sbin/init", "/usr/sbin/init"}
	if named != "" {
		candidates = []string{named}
	}
	for _, name := range candidates {
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("there is no init on the disk: none of %q", candidates)
}

// takeResolvers takes along who looks names up, where that is known.
func takeResolvers(dir string) error {
	text, err := os.ReadFile(resolvFile)
	if err != nil || len(text) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	name := strings.TrimPrefix(resolvFile, "/")
	// It may be a link to where a service is yet to write.
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return root.WriteFile(name, text, 0o644)
}

// moveMounts takes what is mounted along.
func moveMounts(root string) error {
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run"} {
		target := filepath.Join(root, dir)
		if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := unix.Mount(dir, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("%s can't be moved to the disk: %w", dir, err)
		}
	}
	return leave("/tmp")
}

// leave unmounts a folder, if anything is mounted there.
func leave(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s can't be unmounted: %w", dir, err)
	}
	return nil
}

// empty removes everything in a folder that is on the folder's own device.
func empty(dir string) error {
	var here unix.Stat_t
	if err := unix.Stat(dir, &here); err != nil {
		return err
	}
	var wrong []error
	entries, err := os.ReadDir(dir)
	wrong = append(wrong, err)
	for _, entry := range entries {
		name := filepath.Join(dir, entry.Name())
		var at unix.Stat_t
		if err := unix.Lstat(name, &at); err != nil || at.Dev != here.Dev {
			continue
		}
		if entry.IsDir() {
			wrong = append(wrong, empty(name))
		}
		wrong = append(wrong, os.Remove(name))
	}
	return errors.Join(wrong...)
}

// enter makes a mounted folder the root.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("the disk can't be made the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}
