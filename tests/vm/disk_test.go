//go:build linux

package vm

import (
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/domain"
)

// needTool finds a program that disks are made with.
func needTool(t *testing.T, name, debian string) string {
	t.Helper()
	for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if found, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
			return found
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: Debian's package %s has it", name, debian)
	}
	t.Skipf("%s is missing: Debian's package %s has it", name, debian)
	return ""
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if output, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, output)
	}
}

// diskImage makes an image whose root is on a disk: ext4, with guest-tools and busybox.
func diskImage(t *testing.T) vmimage.Image {
	t.Helper()
	needVM(t)
	mke2fs := needTool(t, "mke2fs", "e2fsprogs")
	busybox := needTool(t, "busybox", "busybox-static")
	root, folder := t.TempDir(), t.TempDir()
	for _, name := range []string{"bin", "sbin", "proc", "sys", "dev", "run", "tmp", "root", "etc"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for to, from := range map[string]string{
		filepath.Join(root, "bin", "busybox"):      busybox,
		filepath.Join(root, "sbin", "guest-tools"): filepath.Join(image.Dir, "guest-tools"),
		filepath.Join(folder, "vmlinuz"):           image.KernelFile(),
		filepath.Join(folder, "initrd.img"):        image.InitrdFile(),
	} {
		if err := copyFile(to, from); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, applet := range []string{"sh", "cat", "mount", "touch", "ls", "sync"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	command(t, mke2fs, "-q", "-t", "ext4", "-d", root, filepath.Join(folder, "disk.raw"), "64M")
	definition := image.Definition
	definition.Disk, definition.DiskFormat = "disk.raw", vmimage.FormatRaw
	if err := vmimage.Write(folder, definition); err != nil {
		t.Fatal(err)
	}
	made, err := vmimage.Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func sum(t *testing.T, name string) [sha256.Size]byte {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(hash.Sum(nil))
}

// What a guest writes to its disk is gone with it, in either format.
func TestDisks(t *testing.T) {
	raw := diskImage(t)
	qcow2 := raw
	qcow2.Disk, qcow2.DiskFormat = "disk.qcow2", vmimage.FormatQCOW2
	command(t, needTool(t, "qemu-img", "qemu-utils"), "convert", "-O", "qcow2", raw.DiskFile(), qcow2.DiskFile())
	for _, image := range []vmimage.Image{raw, qcow2} {
		t.Run(string(image.DiskFormat), func(t *testing.T) {
			before := sum(t, image.DiskFile())
			machine := newMachine(t, func(c *qemu.Config) { c.Image = image })
			for range 2 {
				outcome, said := run(t, machine, `while read dev on kind rest; do [ $on = / ] && root="$dev $kind"; done </proc/mounts; echo $root
					[ -e /root/written ] && echo it was written before; echo x >/root/written && sync && cat /root/written`)
				if outcome.Status != domain.StatusSuccess || said != "/dev/vda ext4\nx\n" {
					t.Errorf("%s, %v: %q", outcome.Status, outcome.Err, said)
				}
			}
			if sum(t, image.DiskFile()) != before {
				t.Error("the image's disk has changed")
			}
		})
	}
}

// A host without room for what a guest writes makes its writes fail. QEMU itself would suspend the guest, for
// good.
func TestFullHost(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root mounts a small file system")
	}
	small := t.TempDir()
	if err := unix.Mount("small", small, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("there is no small file system to be had: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	image := diskImage(t)
	machine := newMachine(t, func(c *qemu.Config) { c.Image, c.Folder = image, small })
	outcome, said := run(t, machine, "busybox dd if=/dev/zero of=/root/large bs=1M count=16 conv=fsync 2>/dev/null; echo status $?")
	if outcome.Status != domain.StatusSuccess || said != "status 1\n" {
		t.Errorf("%s, %v: %q", outcome.Status, outcome.Err, said)
	}
}
