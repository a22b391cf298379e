//go:build unix

package endtoend

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/adapters/processmachine"
	"github.com/hexworker/metaservice/adapters/uuids"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// bin is the folder with both programs, built once.
var bin string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "metaservice-bin-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = folder
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", folder+"/",
		"github.com/hexworker/metaservice/cmd/metaservice", "github.com/hexworker/metaservice/cmd/guest-tools")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
		os.RemoveAll(folder)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		os.RemoveAll(folder)
		os.Exit(status)
	}))
}

func tool(name string) string { return filepath.Join(bin, name) }

var silence = slog.New(slog.DiscardHandler)

// serve is the hardened server.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	return httpserver.Serve(ctx, listener, handler, silence)
}

// newMachine is the process machine with the real guest-tools, whose guests have folders below folder.
func newMachine(t *testing.T, folder, config string) ports.Machine {
	t.Helper()
	starter, err := processes.New(processes.Config{
		Mode: processes.ModeShim, Shim: []string{tool("guest-tools"), "tree-shim"},
	})
	if err != nil {
		t.Fatal(err)
	}
	machine, err := processmachine.New(processmachine.Config{
		GuestTools: tool("guest-tools"), Processes: starter, Serve: serve, Folder: folder, GuestConfig: config,
	})
	if err != nil {
		t.Fatal(err)
	}
	return machine
}

// job is a task for a machine.
func job(machine ports.Machine, log *sink, command ...string) host.Job {
	return host.Job{
		Config:      host.Config{IDs: uuids.Random{}, Log: log, Execute: domain.Execute{Command: command}},
		Machine:     machine,
		Handler:     func(api ports.GuestAPI) ports.Handler { return chiapi.New(api, silence) },
		BootTimeout: time.Minute,
	}
}

// start starts a task, and closes it when the test ends.
func start(t *testing.T, j host.Job) *host.Task {
	t.Helper()
	task, err := host.Start(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeTask(t, task) })
	return task
}

func closeTask(t *testing.T, task *host.Task) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := task.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// ended waits for a task.
func ended(t *testing.T, task *host.Task) domain.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	outcome, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

// sink keeps a log.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// eventually polls until something holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %s it doesn't hold: %s", within, what)
		}
	}
}

// entries is what is in a folder.
func entries(t *testing.T, folder string) []string {
	t.Helper()
	found, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}
