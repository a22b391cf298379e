//go:build linux

package vm

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// log keeps a task's log.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// begin starts a task that is a shell script.
func begin(t testing.TB, engine ports.Engine, script string, proxies map[string]http.Handler) (ports.Sandbox, *log) {
	t.Helper()
	out := new(log)
	builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: payloadOf(metaservice.Payload{Command: []string{"sh", "-c", script}}), Log: out})
	if err != nil {
		t.Fatal(err)
	}
	for name, handler := range proxies {
		if err := builder.AttachProxy(name, handler); err != nil {
			t.Fatal(err)
		}
	}
	sandbox, err := builder.StartSandbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sandbox, out
}

// finish waits for the task's end, and disposes of what is left.
func finish(t testing.TB, sandbox ports.Sandbox) domain.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result, err := sandbox.WaitForResult(ctx)
	if died, ok := errors.AsType[*ports.OutcomeError](err); ok { // nothing is left to dispose of
		return died.Outcome
	}
	if err != nil {
		t.Fatal(err)
	}
	outcome := result.Outcome()
	if err := result.Dispose(); err != nil {
		t.Errorf("Dispose: %v", err)
	}
	return outcome
}

// run runs a script, and tells what it said.
func run(t *testing.T, machine ports.Machine, script string) (domain.Outcome, string) {
	t.Helper()
	engine := newEngine(t, machine, 1)
	defer dispose(t, engine)
	sandbox, out := begin(t, engine, script, nil)
	return finish(t, sandbox), out.String()
}

func dispose(t testing.TB, engine ports.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := engine.Dispose(ctx); err != nil {
		t.Errorf("the engine: %v", err)
	}
}

// ownImage gives a machine the image for itself, for tests that run beside others: QEMU is found by its image.
func ownImage(t *testing.T) func(*qemu.Config) { return imageWith(t, "") }

// imageWith gives a machine the image with another init, a script; empty is the image's own.
func imageWith(t *testing.T, init string) func(*qemu.Config) {
	t.Helper()
	needVM(t)
	own := image
	own.Dir = t.TempDir()
	initrd, err := os.ReadFile(image.InitrdFile())
	if err != nil {
		t.Fatal(err)
	}
	if init != "" {
		file := filepath.Join(t.TempDir(), "init")
		if err := os.WriteFile(file, []byte(init), 0o600); err != nil {
			t.Fatal(err)
		}
		newer, err := archiveOf(map[string]string{"init": file})
		if err != nil {
			t.Fatal(err)
		}
		initrd = append(initrd, newer...)
	}
	if err := errors.Join(
		os.WriteFile(own.InitrdFile(), initrd, 0o600),
		copyFile(own.KernelFile(), image.KernelFile()),
		vmimage.Write(own.Dir, own.Definition),
	); err != nil {
		t.Fatal(err)
	}
	return func(c *qemu.Config) { c.Image = own }
}

// A guest that ends by itself has died within seconds, and its last words tell of what.
func TestGuestsThatEnd(t *testing.T) {
	for name, end := range map[string]struct{ script, tells, console string }{
		"panic":    {"echo c >/proc/sysrq-trigger", "the guest's kernel panicked", "sysrq triggered crash"},
		"reboot":   {"reboot -f", "the guest rebooted", "reboot: Restarting system"},
		"poweroff": {"poweroff -f", "the guest was powered off", "reboot: Power down"},
		"memory":   {"tail /dev/zero", "the guest ran out of memory", "panic_on_oom"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine := newEngine(t, newMachine(t, ownImage(t)), 1)
			defer dispose(t, engine)
			sandbox, out := begin(t, engine, "echo begun; sleep 5; "+end.script+"; sleep 1000", nil)
			eventually(t, "the task does not begin", func() bool { return strings.Contains(out.String(), "begun") })
			begun := time.Now()
			outcome := finish(t, sandbox)
			if took := time.Since(begun); took > 2*time.Minute {
				t.Errorf("it took %s to notice", took)
			}
			if outcome.Status != domain.StatusMachineDied || outcome.Err == nil {
				t.Fatalf("the outcome is %s, %v", outcome.Status, outcome.Err)
			}
			for _, want := range []string{end.tells, end.console, "exit status 0"} {
				if !strings.Contains(outcome.Err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, outcome.Err)
				}
			}
		})
	}
}

// A guest that doesn't call in time is given up, with its console's last words, and nothing of it is left.
func TestGuestThatBootsForTooLong(t *testing.T) {
	const boot = 300 * time.Millisecond // enough for QEMU to start, and for no guest
	engine, err := metaservice.NewEngine(metaservice.Config{
		BootTimeout: metaservice.Duration(boot), TemporaryFolder: t.TempDir(),
	}, &metaservice.Environment{Machine: newMachine(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer dispose(t, engine)
	sandbox, log := begin(t, engine, "echo begun", nil)
	outcome := finish(t, sandbox)
	if outcome.Status != domain.StatusMachineDied || outcome.Err == nil || log.String() != "" {
		t.Fatalf("%s, %v: %q", outcome.Status, outcome.Err, log)
	}
	for _, want := range []string{boot.String(), "its console"} {
		if !strings.Contains(outcome.Err.Error(), want) {
			t.Errorf("%v, want %q", outcome.Err, want)
		}
	}
}

// A machine that QEMU refuses to make has died with QEMU's words.
func TestQEMUThatFails(t *testing.T) {
	machine := newMachine(t, func(c *qemu.Config) { c.Image.CPUs, c.CPUs = 1, 1; c.Program = refusing(t) })
	guest, err := machine.Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	<-guest.Done()
	if err := guest.Err(); err == nil || !strings.Contains(err.Error(), "no-such-device") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("it died of %v", err)
	}
	if err := errors.Join(guest.Stop(t.Context())); err != nil {
		t.Error(err)
	}
}

// refusing is QEMU with an argument that it has never heard of.
func refusing(t *testing.T) string {
	t.Helper()
	name := t.TempDir() + "/qemu"
	if err := os.WriteFile(name, []byte("#!/bin/sh\nexec "+qemu.DefaultProgram+" -device no-such-device\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}
