package guestinit

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What isn't mounted is left all the same: /tmp may be a folder of the initramfs.
func TestWhatIsNotMountedIsLeft(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{dir, filepath.Join(dir, "none")} {
		if err := leave(name); err != nil {
			t.Error(err)
		}
	}
	if err := leave("/proc/self/exe/none"); err == nil {
		t.Error("another fault isn't told")
	}
}

// An image is for machines that don't all have the same hardware.
func TestModulesWithoutHardware(t *testing.T) {
	for err, want := range map[error]string{
		nil:            "",
		unix.EEXIST:    "",
		unix.ENODEV:    "isn't needed: its hardware isn't there",
		unix.ENOEXEC:   "can't be loaded: finit_module: exec format error",
		fs.ErrNotExist: "can't be loaded: finit_module: file does not exist",
	} {
		if err != nil {
			err = fmt.Errorf("finit_module: %w", err)
		}
		if got := describeModule(err); got != want {
			t.Errorf("%v: it says %q", err, got)
		}
	}
}
