package processmachine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/adapters/processmachine"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

const patience = 60 * time.Second

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err := server.Serve(listener)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func trees(t *testing.T) ports.Processes {
	t.Helper()
	starter, err := processes.New(processes.Config{
		Mode: processes.ModeShim,
		Shim: []string{"/usr/bin/env", raceOptions(), self(), "tree-shim"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return starter
}

// config is a machine of fake tools, which behave as they are told.
func config(t *testing.T, fake string) processmachine.Config {
	t.Helper()
	return processmachine.Config{
		GuestTools: self(),
		Processes:  trees(t),
		Serve:      serve,
		Folder:     emptyAfter(t),
		// Without GOCOVERDIR, tools that are tested for coverage would say that it is missing.
		Env: []string{"FAKE=" + fake, raceOptions(), "GOCOVERDIR=" + t.TempDir()},
	}
}

// emptyAfter is a folder that must be empty again at the test's end.
func emptyAfter(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "pm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
			t.Errorf("left in the folder: %v, %v", entries, err)
		}
		os.RemoveAll(folder)
	})
	return folder
}

func machine(t *testing.T, config processmachine.Config) ports.Machine {
	t.Helper()
	m, err := processmachine.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestContract(t *testing.T) {
	for _, fake := range []string{"", "stubborn"} {
		t.Run("tools "+fake, func(t *testing.T) {
			contract.Machine(t, func(t *testing.T) ports.Machine {
				c := config(t, fake)
				c.Grace = 300 * time.Millisecond
				return machine(t, c)
			})
		})
	}
	contract.MachineDeath(t, func(t *testing.T) ports.Machine { return machine(t, config(t, "dies")) })
}

// calls is a handler that tells which paths were asked for.
type calls chan string

func (c calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c <- r.URL.Path
	if strings.HasSuffix(r.URL.Path, "/poll") {
		<-r.Context().Done()
	}
}

func (c calls) await(t *testing.T, path string) {
	t.Helper()
	over := time.After(patience)
	for {
		select {
		case called := <-c:
			if called == path {
				return
			}
		case <-over:
			t.Fatalf("nobody asked for %s", path)
		}
	}
}

// onlyFolder is the guest's folder.
func onlyFolder(t *testing.T, parent string) string {
	t.Helper()
	folders, err := filepath.Glob(parent + "/*")
	if err != nil || len(folders) != 1 {
		t.Fatalf("folders: %v, %v", folders, err)
	}
	return folders[0]
}

func readPIDs(t *testing.T, path string) []int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pids := make([]int, 2)
	if _, err := fmt.Sscan(string(text), &pids[0], &pids[1]); err != nil {
		t.Fatal(err)
	}
	return pids
}

func gone(pids []int) bool {
	for _, pid := range pids {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(line), ") Z ") {
			return false
		}
	}
	return true
}

// TestGuestsHome: the guest's folder, socket and environment, and that nothing of it stays.
func TestGuestsHome(t *testing.T) {
	t.Setenv("METASERVICE_SECRET", "of the host")
	t.Setenv("LANG", "xx")
	c := config(t, "")
	c.Env = append(c.Env, "EXTRA=1", "TZ=Mars/Olympus")
	c.GuestConfig = "tty: false\n"
	var words safeBuffer
	c.Output = &words
	host := make(calls, 16)
	guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: host})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Stop(context.Background())
	host.await(t, "/engine/v1/ping")
	folder := onlyFolder(t, c.Folder)
	for name, mode := range map[string]fs.FileMode{
		"": fs.ModeDir | 0o700, "work": fs.ModeDir | 0o700, "tmp": fs.ModeDir | 0o700,
		"host": fs.ModeDir | 0o700, "host/sock": fs.ModeSocket | 0o600, "guest-tools.yml": 0o600,
	} {
		if info, err := os.Lstat(filepath.Join(folder, name)); err != nil || info.Mode() != mode {
			t.Errorf("%q: %v, %v", name, info, err)
		}
	}
	if text, err := os.ReadFile(folder + "/guest-tools.yml"); err != nil || string(text) != c.GuestConfig {
		t.Errorf("configuration %q, %v", text, err)
	}
	pids := readPIDs(t, folder+"/tmp/pids")
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pids[0]))
	if err != nil {
		t.Fatal(err)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pids[0])); err != nil || cwd != folder+"/work" {
		t.Errorf("it works in %q, %v", cwd, err)
	}
	for _, want := range []string{"HOME=" + folder + "/work", "TMPDIR=" + folder + "/tmp", "LANG=xx", "EXTRA=1", "TZ=Mars/Olympus", "PATH=" + os.Getenv("PATH")} {
		if !strings.Contains("\x00"+string(env), "\x00"+want+"\x00") {
			t.Errorf("the environment %q lacks %q", env, want)
		}
	}
	if strings.Contains(string(env), "SECRET") {
		t.Errorf("the host's secrets are in the environment %q", env)
	}
	if err := guest.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if !gone(pids) {
		t.Errorf("some of %v are left", pids)
	}
	want := "fake tools with --host unix:" + folder + "/host/sock --config " + folder + "/guest-tools.yml\nasked to end\n"
	if got := words.String(); got != want {
		t.Errorf("it said %q, want %q", got, want)
	}
}

type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func TestDeathTellsTheLastWords(t *testing.T) {
	guest, err := machine(t, config(t, "dies")).Boot(t.Context(), ports.BootOptions{Handler: make(calls, 16)})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Stop(context.Background())
	select {
	case <-guest.Done():
	case <-time.After(patience):
		t.Fatal("the guest lives")
	}
	err = guest.Err()
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if !strings.Contains(text, "exited with exit code 3") || !strings.HasSuffix(text, `much before that\nthe last words\x1b[31m"`) {
		t.Errorf("%s", text)
	}
	if len(text) < 4000 || len(text) > 5000 {
		t.Errorf("%d bytes of last words", len(text))
	}
}

// Guest-tools that end before they call have not understood what they were started for.
func TestToolsThatAreNone(t *testing.T) {
	for tools, says := range map[string]string{
		"true": `/true" the program guest-tools? they said nothing`,
		"echo": `/echo" the program guest-tools? their last words: "run --host unix:`,
	} {
		c := config(t, "")
		c.GuestTools = tools
		guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: make(calls, 16)})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-guest.Done():
		case <-time.After(patience):
			t.Fatal("the guest lives")
		}
		if err := guest.Err(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v does not say %q", tools, err, says)
		}
		if err := guest.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// The folders are the task's user's, who gets to them, and neither to the socket nor to the configuration.
func TestFoldersOfAnotherUser(t *testing.T) {
	c := config(t, "")
	c.Owner = &processmachine.Owner{UID: 65534, GID: 65533}
	c.GuestConfig = "user: 65534:65533\n"
	host := make(calls, 16)
	guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: host})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Stop(context.Background())
	host.await(t, "/engine/v1/ping")
	folder := onlyFolder(t, c.Folder)
	root := os.Geteuid() == 0 // nobody else can give folders away
	for name, want := range map[string]struct {
		mode  fs.FileMode
		given bool
	}{
		"": {0o711, false}, "host": {0o700, false}, "guest-tools.yml": {0o600, false}, "work": {0o700, true}, "tmp": {0o700, true},
	} {
		info, err := os.Lstat(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		mode, uid, gid := want.mode, os.Geteuid(), os.Getegid()
		if want.given && root {
			uid, gid = 65534, 65533
		}
		if name == "" && !root {
			mode = 0o700
		}
		if stat := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != mode || int(stat.Uid) != uid || int(stat.Gid) != gid {
			t.Errorf("%q: %s of %d:%d", name, info.Mode(), stat.Uid, stat.Gid)
		}
	}
	if err := guest.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// The token is in a file for guest-tools' own user, in a folder that nobody else may enter; it is no argument,
// and in no environment.
func TestTheTokensFile(t *testing.T) {
	const token = "s3cr3t-of-this-guest"
	for _, given := range []string{token, ""} {
		c := config(t, "")
		var words, log safeBuffer
		c.Output, c.Logger = &words, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		host := make(calls, 16)
		guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: host, Token: given})
		if err != nil {
			t.Fatal(err)
		}
		host.await(t, "/engine/v1/ping")
		folder := onlyFolder(t, c.Folder)
		path := folder + "/host/token"
		info, err := os.Lstat(path)
		if given == "" {
			if !errors.Is(err, fs.ErrNotExist) || strings.Contains(words.String(), "token") {
				t.Errorf("without a token there is %v, %v, and guest-tools are started so: %s", info, err, words.String())
			}
		} else {
			text, readErr := os.ReadFile(path)
			if err != nil || info.Mode() != 0o600 || readErr != nil || string(text) != token+"\n" {
				t.Errorf("%v, %v: %q, %v", info, err, text, readErr)
			}
			if !strings.Contains(words.String(), "--token-file "+path) {
				t.Errorf("guest-tools are started so: %s", words.String())
			}
		}
		for _, pid := range readPIDs(t, folder+"/tmp/pids") {
			for _, name := range []string{"cmdline", "environ"} {
				if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name)); err != nil || strings.Contains(string(text), token) {
					t.Errorf("%s of %d: %q, %v", name, pid, text, err)
				}
			}
		}
		if err := guest.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if told := words.String() + log.String(); strings.Contains(told, token) {
			t.Errorf("it is told: %s", told)
		}
	}
}

func TestBootErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*processmachine.Config)
		says   string
	}{
		"no tools":       {func(c *processmachine.Config) { c.GuestTools = "/no/such/tools" }, "go build ./cmd/guest-tools"},
		"none on PATH":   {func(c *processmachine.Config) { c.GuestTools = "no-such-tools" }, "go build ./cmd/guest-tools"},
		"no program":     {func(c *processmachine.Config) { c.GuestTools = file }, "guest-tools"},
		"no folder":      {func(c *processmachine.Config) { c.Folder += "/none" }, "it must be there and be writable"},
		"a file":         {func(c *processmachine.Config) { c.Folder = file }, "it must be there and be writable"},
		"can't be begun": {func(c *processmachine.Config) { c.Processes = noProcesses{} }, "no processes today"},
		"a long path": {func(c *processmachine.Config) {
			c.Folder = filepath.Join(c.Folder, strings.Repeat("long", 25))
			if err := os.Mkdir(c.Folder, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "set TMPDIR, or the machine's folder, to a shorter path"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, "")
			parent := c.Folder
			test.change(&c)
			guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: make(calls, 16)})
			if err == nil {
				guest.Stop(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
			_ = os.Remove(filepath.Join(parent, strings.Repeat("long", 25))) // which is empty
		})
	}
}

type noProcesses struct{}

func (noProcesses) Start(ports.ProcessSpec) (ports.Process, error) {
	return nil, &ports.StartError{ExitCode: 126, Err: errors.New("no processes today")}
}

func TestConfig(t *testing.T) {
	for name, spoil := range map[string]func(*processmachine.Config){
		"GuestTools": func(c *processmachine.Config) { c.GuestTools = "" },
		"Processes":  func(c *processmachine.Config) { c.Processes = nil },
		"Serve":      func(c *processmachine.Config) { c.Serve = nil },
		"Grace":      func(c *processmachine.Config) { c.Grace = -1 },
	} {
		c := config(t, "")
		spoil(&c)
		if _, err := processmachine.New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestServerThatFails: a guest whose host can't hear it has ended.
func TestServerThatFails(t *testing.T) {
	for _, failure := range []error{errors.New("no more connections"), nil} {
		c := config(t, "")
		c.Serve = func(context.Context, net.Listener, http.Handler) error { return failure }
		guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: make(calls, 16)})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-guest.Done():
		case <-time.After(patience):
			t.Fatal("the guest lives")
		}
		if err := guest.Err(); err == nil || !strings.Contains(err.Error(), "the server that the guest talks to failed") ||
			failure != nil && !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
		if err := guest.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// fakeProcess won't die, and notes what was asked of it.
type fakeProcess struct {
	mu    sync.Mutex
	asked []string
	ended chan struct{}
	once  sync.Once
}

func (p *fakeProcess) Start(ports.ProcessSpec) (ports.Process, error) { return p, nil }

func (p *fakeProcess) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what)
}

func (p *fakeProcess) Output() io.Reader { return strings.NewReader("") }

func (p *fakeProcess) Wait(ctx context.Context) (domain.Report, error) {
	select {
	case <-p.ended:
		return domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonKilled}, nil
	case <-ctx.Done():
		return domain.Report{}, ctx.Err()
	}
}

func (p *fakeProcess) Terminate() error {
	p.note("terminate")
	return nil
}

func (p *fakeProcess) Kill(_ context.Context, grace time.Duration) ([]ports.Survivor, error) {
	p.note(fmt.Sprintf("kill after %s", grace))
	p.once.Do(func() { close(p.ended) })
	return []ports.Survivor{{PID: 4711, Command: "zombie\x1b"}}, nil
}

func (p *fakeProcess) Close() error {
	p.note("close")
	return nil
}

// TestStopAsksThenKills, and tells of what survives.
func TestStopAsksThenKills(t *testing.T) {
	for name, hurry := range map[string]bool{"politely": false, "in a hurry": true} {
		p := &fakeProcess{ended: make(chan struct{})}
		c := config(t, "")
		c.Processes, c.Grace = p, 20*time.Millisecond
		guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: make(calls, 16)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		want := "terminate, kill after 0s, close"
		if hurry {
			cancel()
			want = "kill after 0s, close"
		}
		err = guest.Stop(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), `process 4711 ("zombie\x1b") could not be killed`) {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Join(p.asked, ", "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// killedHost is a host that boots a guest, and stays until it is killed.
func killedHost(folder string) {
	starter, err := processes.New(processes.Config{Mode: processes.ModeShim, Shim: []string{self(), "tree-shim"}})
	if err != nil {
		panic(err)
	}
	m, err := processmachine.New(processmachine.Config{GuestTools: self(), Processes: starter, Serve: serve, Folder: folder})
	if err != nil {
		panic(err)
	}
	host := make(calls, 16)
	if _, err := m.Boot(context.Background(), ports.BootOptions{Handler: host}); err != nil {
		panic(err)
	}
	for path := range host {
		fmt.Println(path)
	}
}

// TestKilledHost: the lifeline ends the guest and its task. The folder is left.
func TestKilledHost(t *testing.T) {
	folder, err := os.MkdirTemp("", "pm-")
	if err != nil {
		t.Fatal(err)
	}
	host := exec.Command(self(), "host", folder)
	output, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	for text := ""; !strings.Contains(text, "/ping"); {
		buffer := make([]byte, 64)
		n, err := output.Read(buffer)
		if text += string(buffer[:n]); err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
	}
	pids := readPIDs(t, onlyFolder(t, folder)+"/tmp/pids")
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	for over := time.Now().Add(patience); !gone(pids); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(over) {
			t.Fatalf("some of %v outlived the host", pids)
		}
	}
	_ = os.Chmod(filepath.Join(onlyFolder(t, folder), "work", "cache", "module"), 0o700)
	if err := os.RemoveAll(folder); err != nil {
		t.Error(err)
	}
}

// stuckOutput takes nothing until it may.
type stuckOutput struct{ free chan struct{} }

func (o stuckOutput) Write(p []byte) (int, error) { <-o.free; return len(p), nil }

// A server that goes on, and a log that takes nothing, once held up Stop for ever.
func TestStopDespiteWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil func(c *processmachine.Config, free chan struct{})
		says  string
	}{
		"the output": {func(c *processmachine.Config, free chan struct{}) { c.Output = stuckOutput{free} }, "whoever takes what guest-tools say goes on"},
		"the server": {func(c *processmachine.Config, free chan struct{}) {
			c.Serve = func(ctx context.Context, listener net.Listener, handler http.Handler) error {
				err := serve(ctx, listener, handler)
				<-free
				return err
			}
		}, "the server that the guest talked to goes on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, free := config(t, ""), make(chan struct{})
			defer close(free)
			test.spoil(&c, free)
			host := make(calls, 16)
			guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: host})
			if err != nil {
				t.Fatal(err)
			}
			host.await(t, "/engine/v1/ping")
			stopped := make(chan error, 1)
			go func() { stopped <- guest.Stop(context.Background()) }()
			select {
			case err := <-stopped:
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v, want %q", err, test.says)
				}
			case <-time.After(patience):
				t.Error("Stop never ends")
			}
		})
	}
}
