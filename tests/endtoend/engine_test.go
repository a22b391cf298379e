//go:build linux

package endtoend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
	"github.com/hexworker/metaservice/ports"
)

// fetchCommand is this program's own, for tasks that want something of their host: the process machine's
// is at a socket, and a fresh machine has no curl.
const fetchCommand = "fetch-over-the-guest's-socket"

func init() { // before TestMain, which builds programs
	if len(os.Args) == 3 && os.Args[1] == fetchCommand {
		if err := printFromHost(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// printFromHost prints what is at a path of the host's.
func printFromHost(path string) error {
	var socket string
	err := filepath.WalkDir(filepath.Dir(os.Getenv("HOME")), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type() == fs.ModeSocket {
			socket = path
		}
		return err
	})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	answer, err := client.Get("http://169.254.169.254" + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

// The process machine, with the real guest-tools, keeps the same contract as the guest in the process.
func TestEngineOnTheProcessMachine(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var folder, run string // of the test that runs
	metaservicetest.EngineSuite(t, metaservicetest.EngineSetup{
		New: func(t *testing.T, options metaservicetest.EngineOptions) ports.Engine {
			engine, err := metaservice.NewEngine(metaservice.Config{
				MaxConcurrency: options.MaxConcurrency, GuestTools: tool("guest-tools"), TemporaryFolder: folder,
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return engine
		},
		Payload: func(task metaservicetest.EngineTask) []byte {
			env := map[string]string{marker: run}
			maps.Copy(env, task.SetEnv)
			return enginePayload(metaservice.Payload{
				Command: task.Shell(self, fetchCommand), Env: env,
				Timeout: metaservice.Duration(task.Timeout), Artifacts: task.Artifacts,
			})
		},
		Fetches: true,
		Watch: func(t *testing.T) {
			var err error
			if folder, err = os.MkdirTemp("", "engine-"); err != nil { // a socket's path must be short
				t.Fatal(err)
			}
			run = folder
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() {
				defer os.RemoveAll(folder)
				if left := processesOf(run); len(left) > 0 {
					t.Errorf("processes are left: %v", left)
				}
				if left := entries(t, folder); len(left) > 0 {
					t.Errorf("files are left: %q", left)
				}
				goleak.VerifyNone(t, before)
			})
		},
	})
}

func enginePayload(payload metaservice.Payload) []byte {
	text, err := json.Marshal(payload)
	if err != nil {
		panic(err) // of text
	}
	return text
}

// A machine that can't boot says what to do, and leaves its place and nothing else.
func TestEngineWhoseGuestToolsAreGone(t *testing.T) {
	folder := t.TempDir()
	tools := filepath.Join(t.TempDir(), "guest-tools")
	if err := os.WriteFile(tools, []byte("#!/nonexistent\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	engine, err := metaservice.NewEngine(metaservice.Config{MaxConcurrency: 1, GuestTools: tools, TemporaryFolder: folder}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(tools); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{
			Payload: enginePayload(metaservice.Payload{Command: []string{"true"}}),
		})
		if err != nil {
			t.Fatal(err)
		}
		sandbox, err := builder.StartSandbox(t.Context())
		if err == nil || sandbox != nil {
			t.Fatalf("a sandbox without guest-tools started: %v", err)
		}
	}
	if left := entries(t, folder); len(left) > 0 {
		t.Errorf("files are left: %q", left)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := engine.Dispose(ctx); err != nil {
		t.Error(err)
	}
}
