//go:build unix

package endtoend

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
)

// A guest that starts before its host, and a host that goes away and comes back at the same address: the
// guest picks the connection up, and says so once each time.
func TestAHostThatComesLateAndGoesAndComesBack(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()

	words := &sink{}
	tools := exec.Command(tool("guest-tools"), "--host", address)
	tools.Dir = folder
	tools.Env = []string{"PATH=" + os.Getenv("PATH")} // no HOME, no USER
	tools.Stderr = words
	if err := tools.Start(); err != nil {
		t.Fatal(err)
	}
	defer tools.Wait()
	defer tools.Process.Kill()
	eventually(t, 20*time.Second, "guest-tools say that the host isn't there", func() bool {
		return strings.Contains(words.String(), "not there yet")
	})

	log := &sink{}
	service := metaservice.New([]string{"sh", "-c", "echo hello"}, nil, log, nil, nil)
	defer service.Close()
	stop := serveAt(t, address, service)
	outcome, err := service.Outcome(t.Context())
	if err != nil || !outcome.Succeeded() || log.String() != "hello\n" {
		t.Fatalf("%+v, %v, log %q", outcome, err, log.String())
	}
	for range 2 {
		stop()
		eventually(t, 20*time.Second, "guest-tools see that the host is away", func() bool {
			text := words.String()
			return strings.Count(text, "gone away") > strings.Count(text, "picked up again")
		})
		stop = serveAt(t, address, service)
		file, err := service.GetArtifact("file")
		if err != nil {
			t.Fatal(err)
		}
		if content, err := io.ReadAll(file); err != nil || string(content) != "content" {
			t.Errorf("fetched %q, %v", content, err)
		}
		file.Close()
	}
	stop()
	text := words.String()
	if strings.Count(text, "not there yet") != 1 || strings.Count(text, "gone away") > 3 {
		t.Errorf("guest-tools said it more than once:\n%s", text)
	}
	if err := tools.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := tools.Wait(); err != nil {
		t.Errorf("guest-tools ended with %v", err)
	}
}

// serveAt serves at an address until stop.
func serveAt(t *testing.T, address string, service *metaservice.MetaService) (stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Serve(ctx, listener) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}
