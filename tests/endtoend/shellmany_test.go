//go:build linux

package endtoend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// shellKinds are what becomes of shells: an end of their own, an abort at any moment, a caller that doesn't
// care. Each leaves nothing.
var shellKinds = map[string]func(shell ports.ShellSession) error{
	"printf '%200000s' x": func(shell ports.ShellSession) error {
		out, err := io.ReadAll(shell.StdoutPipe())
		if len(out) != 200_000 {
			err = errors.Join(err, fmt.Errorf("%d bytes came", len(out)))
		}
		return errors.Join(err, succeeds(shell))
	},
	"cat >&2": func(shell ports.ShellSession) error {
		sent := bytes.Repeat([]byte("all of it "), 5000)
		go func() {
			_, _ = shell.StdinPipe().Write(sent)
			_ = shell.StdinPipe().Close()
		}()
		got, err := io.ReadAll(shell.StderrPipe())
		if !bytes.Equal(got, sent) {
			err = errors.Join(err, fmt.Errorf("%d bytes of %d came back", len(got), len(sent)))
		}
		return errors.Join(err, succeeds(shell))
	},
	"yes & sleep 1000 & setsid sleep 1000 & yes": func(shell ports.ShellSession) error {
		_, err := io.CopyN(io.Discard, shell.StdoutPipe(), 100_000)
		return errors.Join(err, aborted(shell))
	},
	"yes 1 & yes 2 >&2 & sleep 1000": aborted, // nobody reads
	"yes | head -c 1000000": func(shell ports.ShellSession) error {
		return errors.Join(shell.StdoutPipe().Close(), succeeds(shell))
	},
	"sleep 1000 & exit 0": succeeds,
}

func succeeds(shell ports.ShellSession) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result, err := shell.Result(ctx)
	if err == nil && !result.Success {
		err = fmt.Errorf("it ended with %+v", result)
	}
	return err
}

func aborted(shell ports.ShellSession) error {
	err := shell.Abort()
	if _, waitErr := shell.Wait(); !errors.Is(waitErr, domain.ErrShellAborted) {
		err = errors.Join(err, fmt.Errorf("after an abort it ended with %v", waitErr))
	}
	return err
}

// oneOfAKind opens a shell, and has its kind done to it.
func oneOfAKind(t *testing.T, task *host.Task, run, script string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	spec := sh(script, false)
	spec.Env = map[string]string{marker: run}
	shell, err := task.OpenShell(ctx, spec)
	if err == nil {
		err = shellKinds[script](shell)
	}
	if err != nil {
		t.Errorf("%s: %v", script, err)
	}
}

// holds is what either end holds.
type holds struct {
	goroutines, files, threads int
	heap, resident             int64 // bytes of the host's, and of the guest's
}

func whatIsHeld(t *testing.T, tools string) (h holds) {
	t.Helper()
	for range 3 { // what is in a pool takes two
		runtime.GC()
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	h.goroutines, h.heap = runtime.NumGoroutine(), int64(memory.HeapAlloc)
	h.files = len(entries(t, "/proc/self/fd")) + len(entries(t, tools+"/fd"))
	status, err := os.ReadFile(tools + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseInt(strings.Fields(value + " 0")[0], 10, 64)
		switch name {
		case "Threads":
			h.threads = int(n)
		case "VmRSS":
			h.resident = n << 10
		}
	}
	return h
}

// Shells of all kinds, a few at a time and then many, leave memory, goroutines, threads, files and
// processes at both ends as they were.
func TestManyShellsOfAllKindsLeaveNothing(t *testing.T) {
	sequence, crowd := 100, 50
	if *contract.Long {
		sequence, crowd = 1000, 200
	}
	task := inGuest(t)
	run := t.TempDir()
	var scripts []string
	for script := range shellKinds {
		scripts = append(scripts, script)
	}
	several := func(from, n int) {
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { oneOfAKind(t, task, run, scripts[(from+i)%len(scripts)]) })
		}
		all.Wait()
	}
	several(0, crowd) // so that what is kept for the next one is there
	tools := guestTools(t)
	gone := func() bool { return len(processesOf(run)) == 0 }
	eventually(t, 20*time.Second, "no process is left", gone)
	before := whatIsHeld(t, tools)
	const abreast = 8 // some of them wait for 2 s
	for i := 0; i < sequence; i += abreast {
		several(i, abreast)
	}
	several(0, crowd)
	eventually(t, 20*time.Second, "no process is left", gone)
	const megabyte = 1 << 20
	var after holds
	defer func() { t.Logf("before %+v, after %+v", before, after) }()
	eventually(t, 20*time.Second, "both ends hold what they held", func() bool {
		after = whatIsHeld(t, tools)
		return after.goroutines <= before.goroutines+4 && after.files <= before.files+4 && after.threads <= before.threads+8 &&
			after.heap < before.heap+megabyte && after.resident < before.resident+16*megabyte
	})
}
