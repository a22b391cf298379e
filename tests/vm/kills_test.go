//go:build linux

package vm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// TestBootsAndKills: however a guest is ended, and whenever, nothing of it is left. Two at a time, each of its
// own disk, since what they write is what could be left.
func TestBootsAndKills(t *testing.T) {
	each, longest := 10, 8*time.Second // of a host that is busy with other tests
	if *contract.Long {
		each, longest = 50, patience
	}
	files := openFiles(t)
	before := goleak.IgnoreCurrent()
	t.Run("all", func(t *testing.T) {
		for _, side := range []string{"left", "right"} {
			t.Run(side, func(t *testing.T) {
				t.Parallel()
				bootAndKill(t, each, longest)
			})
		}
	})
	eventually(t, "files are left open", func() bool { return openFiles(t) <= files })
	goleak.VerifyNone(t, before)
}

// bootAndKill boots so many guests, the first one until it calls, and the others for some of that time, but
// no longer than the longest.
func bootAndKill(t *testing.T, count int, longest time.Duration) {
	image, folder := diskImage(t), t.TempDir()
	machine := newMachine(t, func(c *qemu.Config) { c.Image, c.Folder = image, folder })
	named := names(t, folder)
	var whole time.Duration
	for i := range count {
		called := make(chan struct{})
		once := sync.OnceFunc(func() { close(called) })
		begun := time.Now()
		guest, err := machine.Boot(t.Context(), ports.BootOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			once()
			w.WriteHeader(http.StatusServiceUnavailable)
		})})
		if err != nil {
			t.Fatal(err)
		}
		moment := patience
		if i > 0 { // most of what could be left comes to be early
			moment = time.Duration(float64(min(whole, longest)) * rand.Float64() * rand.Float64())
		}
		select {
		case <-called:
			whole = max(whole, time.Since(begun))
		case <-time.After(moment):
			if i == 0 {
				t.Fatal("it does not call")
			}
		case <-guest.Done():
			t.Fatal(guest.Err())
		}
		way := end(t, guest, image, i)
		t.Logf("guest %d was %s after %s of %s", i, way, time.Since(begun).Round(time.Millisecond), whole.Round(time.Millisecond))
		if left := qemus(image.Dir); len(left) > 0 {
			t.Errorf("QEMU is left: %v", left)
		}
		if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
			t.Errorf("files are left: %v, %v", left, err)
		}
	}
	if made := named(); made != "" {
		t.Errorf("a name came and went: %q", made)
	}
}

// end ends the guest of an image in one of the ways there are.
func end(t *testing.T, guest ports.Guest, image vmimage.Image, way int) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := "stopped"
	switch way % 3 {
	case 1:
		done = "stopped in a hurry"
		cancel()
	case 2:
		done = "killed"
		for _, pid := range awaitQEMU(t, image.Dir) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		select {
		case <-guest.Done():
		case <-time.After(patience):
			t.Fatal("the guest lives on")
		}
	}
	if err := guest.Stop(ctx); err != nil {
		t.Error(err)
	}
	return done
}

// names watches a folder: it tells which names came to be there, even for a moment. It knows nothing where
// files can't be made without one.
func names(t *testing.T, folder string) func() string {
	t.Helper()
	nameless, err := os.OpenFile(folder, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return func() string { return "" }
	}
	nameless.Close()
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(watch) })
	if _, err := unix.InotifyAddWatch(watch, folder, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	return func() string {
		events := make([]byte, 4096)
		n, err := unix.Read(watch, events)
		if err == unix.EAGAIN {
			return ""
		}
		if err != nil {
			return err.Error()
		}
		return string(bytes.Trim(events[unix.SizeofInotifyEvent:n], "\x00"))
	}
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
	fmt.Println("begun")
	guest, err := machine.Boot(context.Background(), ports.BootOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("called")
		w.WriteHeader(http.StatusServiceUnavailable)
	})})
	if err != nil {
		fail(err)
	}
	fmt.Println("booted")
	<-guest.Done()
	fail(guest.Err())
}

// TestKilledHost: a host that is killed takes its guests along, and all that was theirs.
func TestKilledHost(t *testing.T) {
	image := diskImage(t)
	for name, kill := range map[string]struct {
		after  string        // it has said this
		within time.Duration // a random moment of so long
	}{
		"at first":            {"begun", 60 * time.Millisecond},
		"as QEMU starts":      {"booted", 60 * time.Millisecond},
		"amid the boot":       {"booted", 2 * time.Second},
		"when the guest runs": {"called", 60 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) { killHost(t, image, kill.after, kill.within) })
	}
}

func killHost(t *testing.T, image vmimage.Image, after string, within time.Duration) {
	folder := t.TempDir()
	host := exec.Command("/proc/self/exe", hostCommand, image.Dir)
	host.Env = append(os.Environ(), "TMPDIR="+folder)
	host.Stderr = os.Stderr
	output, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Process.Kill(); _ = host.Wait() }()
	says := bufio.NewScanner(output)
	for says.Text() != after {
		if !says.Scan() {
			t.Fatalf("the host doesn't say %q: %v", after, says.Err())
		}
	}
	if after != "begun" {
		awaitQEMU(t, image.Dir)
	}
	<-time.After(rand.N(within))
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	eventually(t, "QEMU outlives its host", func() bool { return len(qemus(image.Dir)) == 0 })
	if took := time.Since(killed); took > 5*time.Second {
		t.Errorf("QEMU outlived its host by %s", took)
	}
	_ = host.Wait() // it was killed
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("the host left %v, %v", left, err)
	}
}

// A QEMU that is killed is a machine that died, and the error tells of what.
func TestKilledQEMU(t *testing.T) {
	machine := newMachine(t)
	guest, err := machine.Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range awaitQEMU(t, image.Dir) {
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
