//go:build linux

package qemu_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/ports"
)

// stuckTool is a config with a disk whose qemu-img never ends. The file gets its id.
func stuckTool(t *testing.T, folder string) (c qemu.Config, file string) {
	t.Helper()
	file = filepath.Join(folder, "pid")
	c = config(t, "exec sleep 1000")
	c.Image.Disk, c.Image.DiskFormat = "initrd.img", "raw"
	c.ImageProgram = filepath.Join(folder, "img")
	script := "#!/bin/sh\necho $$ >" + file + "-begun\nmv " + file + "-begun " + file + "\nexec sleep 1000\n"
	if err := os.WriteFile(c.ImageProgram, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return c, file
}

// awaitPID is the id in a file, once it is there.
func awaitPID(t *testing.T, file string) int {
	t.Helper()
	for over := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		if time.Now().After(over) {
			t.Fatal("it doesn't begin")
		}
	}
}

func awaitDeath(t *testing.T, pid int) {
	t.Helper()
	for over := time.Now().Add(patience); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(over) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("qemu-img lives on")
		}
	}
}

// A boot whose time is over ends qemu-img, and tells which it was, and why.
func TestToolThatTakesTooLong(t *testing.T) {
	c, file := stuckTool(t, t.TempDir())
	why := errors.New("the patience was over")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		awaitPID(t, file)
		cancel(why)
	}()
	_, err := machine(t, c).Boot(ctx, ports.BootOptions{Handler: http.NotFoundHandler()})
	if !errors.Is(err, why) || !strings.Contains(err.Error(), "img info was ended") {
		t.Errorf("%v", err)
	}
	awaitDeath(t, awaitPID(t, file))
}

// hostVariable tells a test that it is a host that is to be killed, with what.
const hostVariable = "QEMU_TEST_HOST"

// QEMU ends with a host that is killed. What looks at its disk once didn't.
func TestToolEndsWithItsHost(t *testing.T) {
	if folder := os.Getenv(hostVariable); folder != "" {
		c, _ := stuckTool(t, folder)
		_, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
		t.Fatal(err)
	}
	folder := t.TempDir()
	host := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	host.Env = append(os.Environ(), hostVariable+"="+folder, "TMPDIR="+folder)
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	pid := awaitPID(t, filepath.Join(folder, "pid"))
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	awaitDeath(t, pid)
}

// A guest tells at any time what its console said, so that one that never calls doesn't go without a word.
func TestLastWordsOfOneThatLives(t *testing.T) {
	guest := boot(t, config(t, `echo no such disk; exec sleep 1000`)).(ports.GuestWithWords)
	const want = `the last lines of its console: "no such disk"`
	for over := time.Now().Add(patience); guest.LastWords() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(over) {
			t.Fatalf("its last words are %q", guest.LastWords())
		}
	}
}
