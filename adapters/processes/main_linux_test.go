package processes_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// raceLog begins the names of the files in which shims tell of data races.
var raceLog string

// TestMain makes the test's own binary the shim of its trees, as guest-tools is for its own, and the
// other programs that the tests need.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "tree-shim":
			os.Exit(processes.ShimMain(os.Args[2:]))
		case "parent":
			parent(os.Args[2])
		case "hoard":
			hoard()
		case "bare":
			bare()
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "processes-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	raceLog = filepath.Join(folder, "race")
	code := m.Run()
	logs, _ := filepath.Glob(raceLog + "*")
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		fmt.Printf("a data race in a shim:\n%s\n", text)
		code = 1
	}
	return code
}

// shim is the command line of a shim: with the race detector, one that ends at once, and tells.
func shim() []string {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return []string{"/usr/bin/env", "GORACE=atexit_sleep_ms=0 log_path=" + raceLog, self, "tree-shim"}
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	return value
}

// parent runs a script under a shim, passes its output on, and stays until it is killed.
func parent(script string) {
	s := must(processes.New(processes.Config{Mode: processes.ModeShim, Shim: shim()}))
	p := must(s.Start(ports.ProcessSpec{Command: []string{"/bin/sh", "-c", script}, Env: os.Environ()}))
	_, _ = io.Copy(os.Stdout, p.Output())
	select {}
}

// hoard has its output, and all the other files that it may have, so that it takes long to die: it closes them
// on its way.
func hoard() {
	var files syscall.Rlimit
	must(0, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	files.Cur = files.Max
	must(0, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files))
	const spare = 100 // for the runtime
	for range min(files.Max, 20_000) - spare {
		must(syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0))
	}
	fmt.Println(os.Getpid())
	for {
		time.Sleep(time.Hour)
	}
}

// bare runs in a mount namespace of its own, takes away what a bare system doesn't have, and tells how
// commands fare.
func bare() {
	for _, folder := range []string{"/etc", "/sys/fs/cgroup", "/dev/pts"} {
		if err := syscall.Mount("none", folder, "tmpfs", 0, ""); err != nil {
			must(0, fmt.Errorf("mount a tmpfs at %s: %w", folder, err))
		}
	}
	s := must(processes.New(processes.Config{Mode: processes.ModeAuto, Shim: shim()}))
	for _, user := range []string{"", "65534", "1234:5678", "somebody"} {
		p, err := s.Start(ports.ProcessSpec{Command: []string{"sh", "-c", "id -u; id -g"}, User: user})
		if err != nil {
			fmt.Printf("%s: %v\n", user, err)
			continue
		}
		out := must(io.ReadAll(p.Output()))
		fmt.Printf("%s: %s\n", user, strings.Join(strings.Fields(string(out)), " "))
		must(0, p.Close())
	}
	spec := ports.ProcessSpec{Command: []string{"sh", "-c", "test -t 1 || echo no terminal"}, Terminal: &ports.TerminalSize{Columns: 80, Rows: 24}}
	p := must(s.Start(spec))
	fmt.Printf("a log: %s", must(io.ReadAll(p.Output())))
	must(0, p.Close())
	_, err := s.StartShell(spec)
	startError := (*ports.StartError)(nil)
	fmt.Printf("a shell: %t %t\n", errors.As(err, &startError), errors.Is(err, domain.ErrFeatureNotSupported))
	os.Exit(0)
}
