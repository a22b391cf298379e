package processmachine_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hexworker/metaservice/adapters/processes"
)

// raceLog begins the names of the files in which shims and guests tell of data races.
var raceLog string

// TestMain makes the test's own binary the guest-tools, and the shim.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "tree-shim":
			os.Exit(processes.ShimMain(os.Args[2:]))
		case "run":
			fakeTools(os.Args[2:])
		case "host":
			killedHost(os.Args[2])
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "processmachine-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	raceLog = filepath.Join(folder, "race")
	code := m.Run()
	logs, _ := filepath.Glob(raceLog + "*")
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		fmt.Printf("a data race:\n%s\n", text)
		code = 1
	}
	return code
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

func raceOptions() string { return "GORACE=atexit_sleep_ms=0 log_path=" + raceLog }

// fakeTools behave like guest-tools, as far as a machine can tell: they ask what to run, run it in a
// session of its own, and poll. FAKE says what they do besides.
func fakeTools(args []string) {
	fmt.Println("fake tools with", strings.Join(args, " "))
	socket := strings.TrimPrefix(args[1], "unix:")
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	get := func(path string) {
		if response, err := client.Get("http://host/engine/v1/" + path); err == nil {
			response.Body.Close()
		}
	}
	get("execute")
	if os.Getenv("FAKE") == "dies" {
		fmt.Println(strings.Repeat("much before that\n", 1000) + "the last words\x1b[31m")
		os.Exit(3)
	}
	task := exec.Command("sleep", "1000")
	task.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := task.Start(); err != nil {
		os.Exit(4)
	}
	// What a task leaves behind, for the machine to remove: a folder that its owner can't write to.
	_ = os.MkdirAll("cache/module", 0o700)
	_ = os.WriteFile("cache/module/file", nil, 0o400)
	_ = os.Chmod("cache/module", 0o500)
	_ = os.WriteFile(os.Getenv("TMPDIR")+"/pids", fmt.Appendf(nil, "%d\n%d\n", os.Getpid(), task.Process.Pid), 0o600)
	get("ping")
	go func() {
		for {
			get("poll")
		}
	}()
	for {
		<-signals
		if os.Getenv("FAKE") != "stubborn" {
			fmt.Println("asked to end")
			os.Exit(0)
		}
		fmt.Println("asked to end, and won't")
	}
}
