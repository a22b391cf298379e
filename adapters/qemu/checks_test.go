//go:build linux

package qemu_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/ports"
)

// needImg ends a test that needs qemu-img.
func needImg(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(qemu.DefaultImageProgram); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("qemu-img is missing: install Debian's package qemu-utils")
	}
	t.Skip("qemu-img is missing: Debian's package qemu-utils has it")
}

func img(t *testing.T, args ...string) {
	t.Helper()
	if output, err := exec.Command(qemu.DefaultImageProgram, args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, output)
	}
}

// What can't work is told before anything is started, with what to do about it.
func TestErrorsBeforeAnythingIsStarted(t *testing.T) {
	disk := func(format vmimage.DiskFormat, make func(t *testing.T, file string)) func(*testing.T, *qemu.Config) {
		return func(t *testing.T, c *qemu.Config) {
			needImg(t)
			c.Image.Disk, c.Image.DiskFormat = "disk", format
			make(t, c.Image.DiskFile())
		}
	}
	garbage := func(t *testing.T, file string) {
		if err := os.WriteFile(file, bytes.Repeat([]byte("garbage "), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		spoil func(*testing.T, *qemu.Config)
		says  []string
	}{
		"no QEMU": {func(_ *testing.T, c *qemu.Config) { c.Program = "no-such-qemu" },
			[]string{"QEMU can't be used", "no-such-qemu", "package qemu-system-x86"}},
		"QEMU is no program": {func(_ *testing.T, c *qemu.Config) { c.Program = c.Image.KernelFile() }, []string{"QEMU can't be used", "permission denied"}},
		"more memory than there is": {func(_ *testing.T, c *qemu.Config) { c.Memory = 1 << 49 },
			[]string{"512 TiB of memory", "this host has", "give it less"}},
		"no kernel":          {func(_ *testing.T, c *qemu.Config) { os.Remove(c.Image.KernelFile()) }, []string{"kernel", "no such file"}},
		"an empty initramfs": {func(_ *testing.T, c *qemu.Config) { os.Truncate(c.Image.InitrdFile(), 0) }, []string{"initramfs", "it is empty"}},
		"no disk": {func(_ *testing.T, c *qemu.Config) { c.Image.Disk, c.Image.DiskFormat = "disk", "raw" },
			[]string{"disk", "no such file"}},
		"a disk of garbage": {disk("qcow2", garbage), []string{"disk", "qemu-img info says", "not in qcow2 format"}},
		"a disk that is cut": {disk("qcow2", func(t *testing.T, file string) {
			img(t, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", file, "8M")
			if err := os.Truncate(file, 1<<18); err != nil {
				t.Fatal(err)
			}
		}), []string{"disk", "qemu-img check says"}},
		"a disk that is half": {disk("qcow2", func(t *testing.T, file string) {
			img(t, "create", "-q", "-f", "raw", file+".base", "8M")
			img(t, "create", "-q", "-f", "qcow2", "-b", file+".base", "-F", "raw", file)
		}), []string{"disk", "another file", "qemu-img convert"}},
		"no qemu-img": {func(t *testing.T, c *qemu.Config) {
			c.Image.Disk, c.Image.DiskFormat = "initrd.img", "raw"
			c.ImageProgram = "no-such-img"
		}, []string{"qemu-img", "package qemu-utils"}},
		"no folder for changes": {func(t *testing.T, c *qemu.Config) {
			needImg(t)
			c.Image.Disk, c.Image.DiskFormat = "initrd.img", "raw"
			c.Folder = c.Image.KernelFile()
		}, []string{"it must be a folder"}},
		"a disk without room": {disk("qcow2", func(t *testing.T, file string) {
			img(t, "create", "-q", "-f", "qcow2", file, "0")
		}), []string{"disk", "there is no room on it"}},
		"a folder that takes nothing": {func(t *testing.T, c *qemu.Config) {
			needImg(t)
			c.Image.Disk, c.Image.DiskFormat = "initrd.img", "raw"
			c.Folder = "/proc" // a folder in which nobody makes files
		}, []string{`what the guest writes to its disk can't be kept in "/proc"`}},
	} {
		t.Run(name, func(t *testing.T) {
			started := filepath.Join(t.TempDir(), "started")
			c := config(t, "touch "+started)
			test.spoil(t, &c)
			m, err := qemu.New(c)
			if err == nil {
				var guest ports.Guest
				if guest, err = m.Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()}); err == nil {
					guest.Stop(t.Context())
				}
			}
			for _, want := range test.says {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			}
			if _, err := os.Stat(started); err == nil {
				t.Error("QEMU was started")
			}
		})
	}
}

// A folder is no kernel, even one that root can open.
func TestFolderAsKernel(t *testing.T) {
	c := config(t, "")
	if err := os.Remove(c.Image.KernelFile()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(c.Image.KernelFile(), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err == nil || !strings.Contains(err.Error(), "the guest's kernel can't be used") || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("%v", err)
	}
}

// A sound disk is looked at once, and again when it has changed.
func TestDiskIsCheckedWhenItChanges(t *testing.T) {
	needImg(t)
	c := config(t, "exec sleep 1000")
	c.Image.Disk, c.Image.DiskFormat = "disk", "qcow2"
	img(t, "create", "-q", "-f", "qcow2", c.Image.DiskFile(), "8M")
	asked := filepath.Join(t.TempDir(), "asked")
	c.ImageProgram = asked + "-img"
	script := "#!/bin/sh\necho $1 >>" + asked + "\nexec " + qemu.DefaultImageProgram + ` "$@"` + "\n"
	if err := os.WriteFile(c.ImageProgram, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	m := machine(t, c)
	bootOnce := func() error {
		guest, err := m.Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
		if err == nil {
			err = guest.Stop(t.Context())
		}
		return err
	}
	for range 3 {
		if err := bootOnce(); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(asked); err != nil || string(text) != "info\ncheck\ncreate\ncreate\ncreate\n" {
		t.Errorf("qemu-img was asked for %q, %v", text, err)
	}
	if err := os.WriteFile(c.Image.DiskFile(), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := bootOnce(); err == nil {
		t.Error("a disk that was spoilt in between is taken")
	}
}

// The schema takes what the check takes.
func TestOptionsSchema(t *testing.T) {
	c := config(t, "")
	c.MaxMemory, c.MaxCPUs, c.AllowNAT = 1<<30, 4, true
	m := machine(t, c)
	var schema jsonschema.Schema
	if err := json.Unmarshal(m.OptionsSchema(), &schema); err != nil {
		t.Fatalf("%v\n%s", err, m.OptionsSchema())
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	for options, want := range map[string]bool{
		`{}`: true, `{"memory":"512MiB","cpus":4,"network":"nat"}`: true, `{"memory":"0.5 GB"}`: true,
		`{"memory":512}`: false, `{"memory":null}`: false, `{"cpus":null}`: false, `{"network":null}`: false, `{"cpus":5}`: false, `{"cpus":0}`: false, `{"network":"bridge"}`: false, `{"more":1}`: false,
	} {
		var value any
		if err := json.Unmarshal([]byte(options), &value); err != nil {
			t.Fatal(err)
		}
		if err := resolved.Validate(value); (err == nil) != want {
			t.Errorf("%s: the schema says %v", options, err)
		}
		if err := m.CheckOptions([]byte(options)); (err == nil) != want {
			t.Errorf("%s: the check says %v", options, err)
		}
	}
}
