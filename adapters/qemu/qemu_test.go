//go:build linux

package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/ports"
)

// patience bounds every wait; none should take as long.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// anImage is a folder with files that look like an image's.
func anImage(t *testing.T) vmimage.Image {
	t.Helper()
	image := vmimage.Image{Dir: t.TempDir(), Definition: vmimage.Definition{
		Version: vmimage.Version, Arch: vmimage.ArchAMD64, Kernel: "vmlinuz", Initrd: "initrd.img",
	}.WithDefaults()}
	for _, file := range []string{image.KernelFile(), image.InitrdFile()} {
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// serve serves nobody until it may end.
func serve(ctx context.Context, listener net.Listener, _ http.Handler) error {
	<-ctx.Done()
	return nil
}

// config is one for a program instead of QEMU, which is a shell script.
func config(t *testing.T, script string) qemu.Config {
	t.Helper()
	program := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return qemu.Config{Image: anImage(t), Serve: serve, Program: program, Acceleration: qemu.TCG, Grace: 100 * time.Millisecond}
}

func machine(t *testing.T, config qemu.Config) *qemu.Machine {
	t.Helper()
	m, err := qemu.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// boot boots a guest that is stopped at the test's end.
func boot(t *testing.T, config qemu.Config) ports.Guest {
	t.Helper()
	guest, err := machine(t, config).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guest.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return guest
}

func await(t *testing.T, guest ports.Guest) error {
	t.Helper()
	select {
	case <-guest.Done():
		return guest.Err()
	case <-time.After(patience):
		t.Fatal("the guest lives on")
		return nil
	}
}

func TestConfig(t *testing.T) {
	for says, spoil := range map[string]func(*qemu.Config){
		"Image is missing":           func(c *qemu.Config) { c.Image = vmimage.Image{} },
		"kernel is missing":          func(c *qemu.Config) { c.Image.Kernel = "" },
		"Serve is missing":           func(c *qemu.Config) { c.Serve = nil },
		"Memory is 1 bytes":          func(c *qemu.Config) { c.Memory = 1 },
		"there are -1 CPUs":          func(c *qemu.Config) { c.CPUs = -1 },
		"100 at most for a task":     func(c *qemu.Config) { c.MaxCPUs = 100 },
		"can't be negative":          func(c *qemu.Config) { c.Grace = -1 },
		"ConsoleBytes":               func(c *qemu.Config) { c.ConsoleBytes = -1 },
		`Acceleration is "haxm"`:     func(c *qemu.Config) { c.Acceleration = "haxm" },
		"from 64MiB to":              func(c *qemu.Config) { c.Image.Memory = 5 },
		"must be from 1 to 64":       func(c *qemu.Config) { c.Image.CPUs = 65 },
		"it must be one line of tex": func(c *qemu.Config) { c.Image.Append = "a\nb" },
	} {
		c := config(t, "")
		spoil(&c)
		if _, err := qemu.New(c); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

const withoutVMX = "processor\t: 0\nvendor_id\t: GenuineIntel\nvmx flags\t: vnmi\nflags\t\t: fpu vme hypervisor\n"

// The device is touched only where the processor offers what it needs: elsewhere it may be there, open, and
// hang.
func TestAcceleration(t *testing.T) {
	untouched := func() error { t.Error("/dev/kvm was opened"); return nil }
	works := func() error { return nil }
	denied := func() error { return os.ErrPermission }
	offers := func(flag string) string { return strings.ReplaceAll(withoutVMX, "hypervisor", "hypervisor "+flag) }
	for name, test := range map[string]struct {
		asked qemu.Acceleration
		info  string
		kvm   func() error
		want  qemu.Acceleration
		says  string
	}{
		"auto on Intel":              {qemu.Auto, offers("vmx"), works, qemu.KVM, ""},
		"auto on AMD":                {qemu.Auto, offers("svm"), works, qemu.KVM, ""},
		"auto without a device":      {qemu.Auto, offers("vmx"), denied, qemu.TCG, "permission"},
		"auto in a virtual machine":  {qemu.Auto, withoutVMX, untouched, qemu.TCG, "neither vmx nor svm"},
		"nothing to read":            {qemu.Auto, "", untouched, qemu.TCG, "neither vmx nor svm"},
		"asked for, and there":       {qemu.KVM, offers("vmx"), works, qemu.KVM, ""},
		"asked for, and not allowed": {qemu.KVM, offers("vmx"), denied, "", "permission"},
		"asked for, and not there":   {qemu.KVM, withoutVMX, untouched, "", "neither vmx nor svm"},
		"not wanted":                 {qemu.TCG, offers("vmx"), untouched, qemu.TCG, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			c := config(t, "")
			c.Acceleration, c.Logger = test.asked, slog.New(slog.NewTextHandler(&said, nil))
			m := machine(t, c)
			m.On(qemu.FakeHost{CPUInfo: test.info, KVM: test.kvm})
			for range 3 {
				got, err := m.Accelerate()
				if got != test.want || (err != nil) != (test.want == "") {
					t.Errorf("%s, %v", got, err)
				}
				if err != nil {
					said.Reset()
					said.WriteString(err.Error())
				}
			}
			if !strings.Contains(said.String(), test.says) || test.says != "" && strings.Count(said.String(), "\n") > 1 || test.says == "" && said.Len() > 0 {
				t.Errorf("it says %s", &said)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	c := config(t, "")
	c.MaxMemory, c.MaxCPUs = 1<<30, 4
	nat := c
	nat.AllowNAT = true
	const gateway = "metaservice.gateway=169.254.169.254 metaservice.dns=169.254.169.254"
	for _, test := range []struct {
		options string
		has     []string
		out     bool
	}{
		{"", []string{"size=262144k", "-smp 1"}, false},
		{"null", []string{"size=262144k"}, false},
		{"{}", []string{"size=262144k"}, false},
		{`{"memory":"512MiB","cpus":4}`, []string{"size=524288k", "-smp 4"}, false},
		{`{"memory":"1GiB"}`, []string{"size=1048576k"}, false},
		{`{"network":"isolated"}`, nil, false},
		{`{"network":"nat"}`, nil, true},
	} {
		m := machine(t, nat)
		if err := m.CheckOptions([]byte(test.options)); err != nil {
			t.Errorf("%s: %v", test.options, err)
		}
		args, err := m.Arguments([]byte(test.options), qemu.TCG)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Join(args, " ")
		for _, want := range test.has {
			if !strings.Contains(line, want) {
				t.Errorf("%s: %q is not in %s", test.options, want, line)
			}
		}
		if got := strings.Contains(line, gateway); got != test.out {
			t.Errorf("%s: the guest is told of a way out: %v", test.options, got)
		}
	}
	for options, want := range map[string]string{
		`[]`:                              "an object",
		`{"memory":"1GiB","memory":"1"}`:  "an object",
		`{"cpu":1}`:                       "cpu is there",
		`{"memory":512}`:                  "memory is 512",
		`{"memory":"lots"}`:               `memory is "lots"`,
		`{"memory":"1MiB"}`:               "from 64 MiB to 1.0 GiB",
		`{"memory":"2GiB"}`:               `memory is "2GiB"`,
		`{"memory":"9999999999999999TB"}`: "memory",
		`{"cpus":0}`:                      "cpus is 0, it must be a number from 1 to 4",
		`{"cpus":5}`:                      "cpus is 5",
		`{"cpus":1.5}`:                    "cpus is 1.5",
		`{"cpus":"2"}`:                    `cpus is "2"`,
		`{"cpus":null}`:                   "cpus is null, it must be a number from 1 to 4",
		`{"memory":null}`:                 "memory is null",
		`{"network":null}`:                "network is null",
		`{"network":"nat"}`:               `network is "nat", it must be "isolated"`,
		`{"network":"bridge"}`:            "network",
		`{"network":1}`:                   "network",
		`{"cpus":5,"memory":"2GiB"}`:      "cpus is 5",
	} {
		err := machine(t, c).CheckOptions([]byte(options))
		var malformed *ports.MalformedPayloadError
		if !errors.As(err, &malformed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", options, err, want)
		}
		guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler(), Options: []byte(options)})
		if err == nil {
			guest.Stop(t.Context())
		}
		if !errors.As(err, &malformed) {
			t.Errorf("Boot takes %s: %v", options, err)
		}
	}
}

// What is wrong is told in the same order each time: a message that is never the same twice can't be
// searched for.
func TestMistakesComeInOrder(t *testing.T) {
	m := machine(t, config(t, ""))
	for range 20 {
		err := m.CheckOptions([]byte(`{"network":1,"memory":1,"f":1,"e":1,"d":1,"cpus":0,"a":1}`))
		var malformed *ports.MalformedPayloadError
		if !errors.As(err, &malformed) {
			t.Fatal(err)
		}
		var paths []string
		for _, mistake := range malformed.Mistakes {
			paths = append(paths, mistake.Path)
		}
		if want := []string{"a", "cpus", "d", "e", "f", "memory", "network"}; !slices.Equal(paths, want) {
			t.Fatalf("%q", paths)
		}
	}
}

func TestIsolated(t *testing.T) {
	for _, test := range []struct{ nat, allowed, want bool }{{false, false, true}, {true, false, false}, {false, true, false}} {
		c := config(t, "")
		c.NAT, c.AllowNAT = test.nat, test.allowed
		if got := machine(t, c).Isolated(); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

func TestArguments(t *testing.T) {
	c := config(t, "")
	c.Image.Disk, c.Image.DiskFormat = "disk,1.qcow2", vmimage.FormatQCOW2
	args, err := machine(t, c).Arguments(nil, qemu.TCG)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{
		{"-nodefaults"}, {"-no-user-config"}, {"-no-reboot"}, {"-display", "none"}, {"-monitor", "none"},
		{"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"},
		{"-kernel", c.Image.KernelFile()}, {"-initrd", c.Image.InitrdFile()},
		{"-drive", "file=/proc/self/fd/4,format=qcow2,if=none,id=disk,cache=unsafe,backing.driver=qcow2," +
			"backing.file.driver=file,backing.file.filename=" + c.Image.Dir + "/disk,,1.qcow2"},
	} {
		if at := slices.Index(args, want[0]); at < 0 || len(want) > 1 && args[at+1] != want[1] {
			t.Errorf("%q is not in %q", want, args)
		}
	}
	for extra, want := range map[string]string{
		"":                        "console=ttyS0 panic=-1 sysctl.vm.panic_on_oom=1 metaservice.address=169.254.169.2/24 metaservice.root=/dev/vda",
		"quiet":                   "console=ttyS0 panic=-1 sysctl.vm.panic_on_oom=1 metaservice.address=169.254.169.2/24 metaservice.root=/dev/vda quiet",
		"panic=5 console=tty0":    "console=ttyS0 sysctl.vm.panic_on_oom=1 metaservice.address=169.254.169.2/24 metaservice.root=/dev/vda panic=5 console=tty0",
		"metaservice.net=dhcp":    "console=ttyS0 panic=-1 sysctl.vm.panic_on_oom=1 metaservice.root=/dev/vda metaservice.net=dhcp",
		"root=/dev/vda1 ro":       "console=ttyS0 panic=-1 sysctl.vm.panic_on_oom=1 metaservice.address=169.254.169.2/24 root=/dev/vda1 ro",
		"metaservice.root=/dev/a": "console=ttyS0 panic=-1 sysctl.vm.panic_on_oom=1 metaservice.address=169.254.169.2/24 metaservice.root=/dev/a",
	} {
		c.Image.Append = extra
		args, err := machine(t, c).Arguments(nil, qemu.TCG)
		if err != nil {
			t.Fatal(err)
		}
		if got := args[slices.Index(args, "-append")+1]; got != want {
			t.Errorf("%q makes the command line\n%s, want\n%s", extra, got, want)
		}
	}
}

func TestMeminfo(t *testing.T) {
	if n, err := qemu.ParseMeminfo("MemTotal:       24689132 kB\nMemFree:  1 kB\n"); err != nil || n != 24689132<<10 {
		t.Errorf("%d, %v", n, err)
	}
	for _, text := range []string{"", "MemFree: 1 kB\n", "MemTotal: 1 GB\n", "MemTotal: many kB\n", "MemTotal: 99999999999999999 kB\n"} {
		if n, err := qemu.ParseMeminfo(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}
