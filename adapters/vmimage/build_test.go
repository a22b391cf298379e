//go:build unix

package vmimage_test

import (
	"bytes"
	"debug/elf"
	"flag"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/adapters/vmimage"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestTheInitramfsIsAsListed(t *testing.T) {
	k := newKit(t)
	k.config.Append, k.config.Memory, k.config.CPUs = "quiet", 1<<30, 2
	must(t, os.Chmod(k.at("root/bin/sh"), 0o755|os.ModeSetuid), os.Chmod(k.at("root/etc"), 0o750),
		os.Symlink("motd", k.at("root/etc/issue")), syscall.Mkfifo(k.at("root/etc/fifo"), 0o600))
	image, err := k.build()
	if err != nil {
		t.Fatal(err)
	}
	want := vmimage.Definition{Version: 1, Arch: "amd64", Kernel: "vmlinuz", Initrd: "initrd.img", Append: "quiet", Memory: 1 << 30, CPUs: 2}
	if diff := cmp.Diff(want, image.Definition); diff != "" {
		t.Error(diff)
	}
	got := describe(readInitrd(t, image.InitrdFile()))
	const golden = "testdata/initramfs.golden"
	if *update {
		must(t, os.MkdirAll("testdata", 0o755), os.WriteFile(golden, []byte(got), 0o644))
	}
	listed, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(listed), got); diff != "" {
		t.Errorf("run with -update where this is meant:\n%s", diff)
	}
}

func TestTheSameInputMakesTheSameBytes(t *testing.T) {
	first, second := newKit(t), newKit(t)
	// Neither times nor the order in which files were made may count.
	long := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range []string{"a", "b"} {
		writeFiles(t, first.dir, map[string][]byte{"root/" + name: []byte(name)})
	}
	for _, name := range []string{"b", "a"} {
		writeFiles(t, second.dir, map[string][]byte{"root/" + name: []byte(name)})
		must(t, os.Chtimes(second.at("root/"+name), long, long))
	}
	one, err := first.build()
	must(t, err)
	other, err := second.build()
	must(t, err)
	for _, name := range []string{"vmlinuz", "initrd.img", "machine.json"} {
		a, err := os.ReadFile(filepath.Join(one.Dir, name))
		must(t, err)
		b, err := os.ReadFile(filepath.Join(other.Dir, name))
		must(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("%s is not the same", name)
		}
	}
}

func TestModulesLoadAfterWhatTheyDependOn(t *testing.T) {
	k := newKit(t)
	k.modules(map[string]string{
		"kernel/drivers/char/hw_random/virtio-rng.ko.xz": "virtio", "kernel/fs/ext4/ext4.ko.zst": "jbd2,mbcache",
		"kernel/fs/jbd2/jbd2.ko.gz": "", "updates/dkms/extra-one.ko": "ext4",
	})
	writeFiles(t, k.dir, map[string][]byte{"modules/modules.builtin": []byte("kernel/fs/mbcache.ko\nkernel/net/packet/af_packet.ko\n"),
		"modules/modules.dep": []byte("nonsense")})
	k.config.More = []string{"extra_one", "virtio_net"}
	entries := k.mustBuild()
	want := []string{"virtio_ring", "virtio", "virtio_pci", "failover", "virtio_net", "virtio-rng", "jbd2", "ext4", "extra-one"}
	if diff := cmp.Diff(want, list(entries)); diff != "" {
		t.Error(diff)
	}
	packed := entries["lib/modules/"+release+"/kernel/fs/ext4/ext4.ko"]
	if packed.content != string(module(release, "jbd2,mbcache")) {
		t.Error("a packed module isn't unpacked in the initramfs")
	}
}

func TestAKernelWithAllBuiltInNeedsNoModules(t *testing.T) {
	k := newKit(t)
	must(t, os.RemoveAll(k.config.Modules))
	writeFiles(t, k.dir, map[string][]byte{"modules/modules.builtin": []byte("kernel/a/virtio_pci.ko\nkernel/b/virtio_net.ko\n")})
	if got := list(k.mustBuild()); len(got) != 0 {
		t.Errorf("the modules are %q", got)
	}
}

func TestARootWhoseLibIsALink(t *testing.T) {
	k := newKit(t)
	must(t, os.MkdirAll(k.at("root/usr/lib"), 0o755), os.MkdirAll(k.at("root/usr/sbin"), 0o755),
		os.Symlink("usr/lib", k.at("root/lib")), os.Symlink("/usr/sbin", k.at("root/sbin")))
	entries := k.mustBuild()
	for _, name := range []string{"usr/lib/metaservice/modules", "usr/sbin/guest-tools", "usr/lib/modules/" + release + "/kernel/drivers/virtio/virtio.ko"} {
		if _, there := entries[name]; !there {
			t.Errorf("there is no %s", name)
		}
	}
	if entries["lib"].link != "usr/lib" || entries["sbin"].link != "/usr/sbin" {
		t.Error("the links are gone")
	}
}

func TestARootOfBusybox(t *testing.T) {
	k := newKit(t)
	k.config.Root = vmimage.RootBusybox
	bin := t.TempDir()
	if _, err := os.Stat("/bin/busybox"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no static busybox: make vm-tools installs it")
		}
		t.Skip("there is no static busybox: make vm-tools installs it")
	}
	must(t, os.Symlink("/bin/busybox", filepath.Join(bin, "busybox")))
	t.Setenv("PATH", bin)
	entries := k.mustBuild()
	if got := entries["bin/sh"].link; got != "/bin/busybox" {
		t.Errorf("the shell is a link to %q", got)
	}
	if entries["bin/busybox"].mode.Perm() != 0o755 || entries["etc/os-release"].content == "" {
		t.Error("busybox or its few files are missing")
	}
	if got := entries["init"].link; got != "/sbin/guest-tools" {
		t.Errorf("init is a link to %q", got)
	}
	for _, name := range []string{"sbin/init", "linuxrc"} {
		if _, there := entries[name]; there {
			t.Errorf("busybox's %s is there beside ours", name)
		}
	}
	must(t, os.Remove(filepath.Join(bin, "busybox")), os.RemoveAll(k.at("out")))
	k.fails("no busybox on the PATH", "busybox-static")
	must(t, os.WriteFile(filepath.Join(bin, "busybox"), program(false), 0o755))
	k.fails("needs shared libraries", "busybox-static")
	must(t, os.WriteFile(filepath.Join(bin, "busybox"), program(true), 0o755))
	k.fails("can't tell its applets")
}

func TestABadBuildSaysWhyAndLeavesNothing(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*kit)
		want  []string
	}{
		{"nothing named", func(k *kit) { k.config = vmimage.BuildConfig{} },
			[]string{"kernel isn't named", "modules isn't named", "root isn't named", "guest-tools isn't named", "to make isn't named"}},
		{"a bad definition", func(k *kit) { k.config.CPUs = 1000 }, []string{"cpus is 1000"}},
		{"no kernel", func(k *kit) { remove("vmlinuz-test")(k.t, k.dir) }, []string{"vmlinuz-test", "no such file"}},
		{"a kernel that isn't one", func(k *kit) { write("vmlinuz-test", []byte("ELF"))(k.t, k.dir) }, []string{"no Linux kernel"}},
		{"a kernel without its version", func(k *kit) { write("vmlinuz-test", kernel())(k.t, k.dir) }, []string{"doesn't say its version"}},
		{"a version past the kernel's end", func(k *kit) { write("vmlinuz-test", bootable("x")[:0x400])(k.t, k.dir) }, []string{"doesn't say its version"}},
		{"an empty version", func(k *kit) { write("vmlinuz-test", bootable(""))(k.t, k.dir) }, []string{"doesn't say its version"}},
		{"no modules' folder", func(k *kit) { k.config.Modules += "x" }, []string{"folder of modules"}},
		{"another folder", func(k *kit) { k.config.Modules = k.at("root") }, []string{"must be like /lib/modules/RELEASE"}},
		{"modules of another kernel", func(k *kit) { write("vmlinuz-test", bootable("6.2.0"))(k.t, k.dir) },
			[]string{`for the kernel "6.1.0-test-amd64"`, `the kernel is "6.2.0"`}},
		{"a required module less", func(k *kit) { remove("modules/kernel/drivers/net/virtio_net.ko")(k.t, k.dir) },
			[]string{`"virtio_net" is neither in the folder nor built`}},
		{"a module less that another needs", func(k *kit) { remove("modules/kernel/net/core/failover.ko")(k.t, k.dir) },
			[]string{`"failover", which virtio_net depends on`}},
		{"an unknown module", func(k *kit) { k.config.More = []string{"nosuch"} }, []string{`"nosuch"`}},
		{"a ring", func(k *kit) { k.modules(map[string]string{"kernel/net/core/failover.ko": "virtio-net"}) },
			[]string{"ring: virtio_net, failover, virtio_net"}},
		{"a module twice", func(k *kit) { k.modules(map[string]string{"updates/virtio-net.ko.xz": ""}) }, []string{"are the same module"}},
		{"a module that isn't one", func(k *kit) { write("modules/kernel/net/core/failover.ko", []byte("x"))(k.t, k.dir) }, []string{"failover.ko", "no module"}},
		{"a program as a module", func(k *kit) { write("modules/kernel/net/core/failover.ko", program(true))(k.t, k.dir) }, []string{"no section .modinfo"}},
		{"a module of another machine", func(k *kit) {
			write("modules/kernel/net/core/failover.ko", object(elf.ET_REL, elf.EM_AARCH64, ".modinfo", nil, 0))(k.t, k.dir)
		}, []string{"EM_AARCH64, not for amd64"}},
		{"a module that is badly packed", func(k *kit) {
			remove("modules/kernel/net/core/failover.ko")(k.t, k.dir)
			write("modules/kernel/net/core/failover.ko.xz", []byte("x"))(k.t, k.dir)
		}, []string{"failover.ko.xz", "can't be unpacked"}},
		{"a module without end", func(k *kit) {
			remove("modules/kernel/net/core/failover.ko")(k.t, k.dir)
			write("modules/kernel/net/core/failover.ko.gz", bomb(k.t))(k.t, k.dir)
		}, []string{"failover.ko.gz", "more than 67108864 bytes"}},
		{"no root", func(k *kit) { k.config.Root += "x" }, []string{"the root", "no such file"}},
		{"a root with an init", func(k *kit) { write("root/init", []byte("x"))(k.t, k.dir) }, []string{"has a file /init already"}},
		{"a root with a file for a folder", func(k *kit) { write("root/sbin", []byte("x"))(k.t, k.dir) }, []string{`"/sbin" is no folder`}},
		{"a root with a ring of links", func(k *kit) { must(k.t, os.Symlink("sbin", k.at("root/sbin"))) }, []string{"too many symbolic links"}},
		{"a root with a giant file", func(k *kit) {
			write("root/giant", nil)(k.t, k.dir)
			must(k.t, os.Truncate(k.at("root/giant"), 1<<32))
		}, []string{`"/giant" has 4294967296 bytes`}},
		{"no guest-tools", func(k *kit) { remove("guest-tools")(k.t, k.dir) }, []string{"guest-tools", "no such file"}},
		{"guest-tools with libraries", func(k *kit) { write("guest-tools", program(false))(k.t, k.dir) }, []string{"needs shared libraries"}},
		{"guest-tools of another machine", func(k *kit) {
			write("guest-tools", object(elf.ET_EXEC, elf.EM_AARCH64, ".text", nil, 0))(k.t, k.dir)
		}, []string{"EM_AARCH64, not for amd64"}},
		{"guest-tools that are a script", func(k *kit) { write("guest-tools", []byte("#!/bin/sh\n"))(k.t, k.dir) }, []string{"no program for Linux"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKit(t)
			test.spoil(k)
			k.fails(test.want...)
		})
	}
}

func TestASocketInTheRootIsRefused(t *testing.T) {
	k := newKit(t)
	t.Chdir(k.at("root"))
	socket, err := net.Listen("unix", "socket")
	must(t, err)
	defer socket.Close()
	k.fails(`"/socket" is a socket`)
}

func TestDevicesOfTheRootAreLeftOut(t *testing.T) {
	k := newKit(t)
	if err := syscall.Mknod(k.at("root/null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Skipf("only root makes devices: %v", err)
	}
	if e, there := k.mustBuild()["null"]; there {
		t.Errorf("the device is there: %v", e.header)
	}
}

func TestAnImageIsNeverOverwritten(t *testing.T) {
	k := newKit(t)
	must(t, os.MkdirAll(k.config.Output, 0o755))
	k.mustBuild() // an empty folder may be there
	before, err := os.Stat(k.config.Output)
	must(t, err)
	if _, err := k.build(); err == nil {
		t.Error("a second build wrote into the first's folder")
	}
	after, err := os.Stat(k.config.Output)
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("the folder is another one")
	}
}

// bomb is a little that unpacks to a lot: one MiB, many times.
func bomb(t *testing.T) []byte {
	t.Helper()
	return bytes.Repeat(pack(t, ".gz", make([]byte, 1<<20)), 65)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
