//go:build linux

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
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

// A guest that ends by itself has died within seconds, and its last words tell of what.
func TestGuestsThatEnd(t *testing.T) {
	for name, end := range map[string]struct{ script, tells, console string }{
		"panic":    {"echo c >/proc/sysrq-trigger", "the guest's kernel panicked", "sysrq triggered crash"},
		"reboot":   {"reboot -f", "the guest rebooted", "reboot: Restarting system"},
		"poweroff": {"poweroff -f", "the guest was powered off", "reboot: Power down"},
		"memory":   {"tail /dev/zero", "the guest ran out of memory", "panic_on_oom"},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, newMachine(t), 1)
			defer dispose(t, engine)
			sandbox, out := begin(t, engine, "echo begun; sleep 1; "+end.script+"; sleep 1000", nil)
			eventually(t, "the task does not begin", func() bool { return strings.Contains(out.String(), "begun") })
			begun := time.Now()
			outcome := finish(t, sandbox)
			if took := time.Since(begun); took > 30*time.Second {
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

// TestBootsAndKills: however a guest is stopped, and whenever, nothing of it is left.
func TestBootsAndKills(t *testing.T) {
	count := 3
	if *contract.Long {
		count = 20
	}
	machine := newMachine(t)
	files := openFiles(t)
	before := goleak.IgnoreCurrent()
	for i := range count {
		called := make(chan struct{})
		once := sync.OnceFunc(func() { close(called) })
		guest, err := machine.Boot(t.Context(), ports.BootOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			once()
			w.WriteHeader(http.StatusServiceUnavailable)
		})})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if i%2 == 0 { // amid its boot
			wait := time.NewTimer(rand.N(3 * time.Second))
			select {
			case <-wait.C:
			case <-guest.Done():
				t.Fatal(guest.Err())
			}
		} else {
			select {
			case <-called:
			case <-guest.Done():
				t.Fatal(guest.Err())
			case <-time.After(patience):
				t.Fatal("it does not call")
			}
		}
		if i%3 == 0 {
			cancel()
		}
		if err := guest.Stop(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		if left := qemus(image.Dir); len(left) > 0 {
			t.Errorf("QEMU is left: %v", left)
		}
	}
	eventually(t, "files are left open", func() bool { return openFiles(t) <= files })
	goleak.VerifyNone(t, before)
}

func openFiles(t *testing.T) int {
	t.Helper()
	found, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// hostCommand makes this test's program a host that boots a guest from an image and stays.
const hostCommand = "host-of-a-guest"

func bootAndStay(folder string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	image, err := vmimage.Read(folder)
	if err != nil {
		fail(err)
	}
	machine, err := qemu.New(qemu.Config{Image: image, Serve: serve})
	if err != nil {
		fail(err)
	}
	guest, err := machine.Boot(context.Background(), ports.BootOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("called")
		w.WriteHeader(http.StatusServiceUnavailable)
	})})
	if err != nil {
		fail(err)
	}
	<-guest.Done()
	fail(guest.Err())
}

// TestKilledHost: a host that is killed takes its guests along.
func TestKilledHost(t *testing.T) {
	needVM(t)
	host := exec.Command("/proc/self/exe", hostCommand, image.Dir)
	host.Stderr = os.Stderr
	output, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Process.Kill(); _ = host.Wait() }()
	if _, err := output.Read(make([]byte, 1)); err != nil {
		t.Fatalf("its guest doesn't call: %v", err)
	}
	if found := qemus(image.Dir); len(found) != 1 {
		t.Fatalf("QEMU runs as %v", found)
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	eventually(t, "QEMU outlives its host", func() bool { return len(qemus(image.Dir)) == 0 })
	if took := time.Since(killed); took > 5*time.Second {
		t.Errorf("QEMU outlived its host by %s", took)
	}
}

// A QEMU that is killed is a machine that died, and the error tells of what.
func TestKilledQEMU(t *testing.T) {
	machine := newMachine(t)
	guest, err := machine.Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range qemus(image.Dir) {
		process, err := os.FindProcess(pid)
		if err == nil {
			err = process.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-guest.Done():
	case <-time.After(patience):
		t.Fatal("the guest lives on")
	}
	if err := guest.Err(); err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("it died of %v", err)
	}
	if err := guest.Stop(t.Context()); err != nil {
		t.Error(err)
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
