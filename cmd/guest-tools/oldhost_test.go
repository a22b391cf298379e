//go:build unix

package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// asGuestTools makes the test's program be guest-tools, so that what runs is the whole of it.
const asGuestTools = "METASERVICE_TEST_AS_GUEST_TOOLS"

func TestMain(m *testing.M) {
	if os.Getenv(asGuestTools) != "" || len(os.Args) > 1 && os.Args[1] == shimCommand {
		main()
	}
	os.Exit(m.Run())
}

// after is a generous limit for what takes no time.
func after(t *testing.T) <-chan time.Time {
	timer := time.NewTimer(30 * time.Second)
	t.Cleanup(func() { timer.Stop() })
	return timer.C
}

// tools is guest-tools, running.
type tools struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr *safeBuffer
	ended  chan error
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func startTools(t *testing.T, dir string, stdin string, args ...string) *tools {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &tools{t: t, cmd: exec.Command(self, args...), stderr: &safeBuffer{}, ended: make(chan error, 1)}
	c.cmd.Dir = dir
	c.cmd.Stdin = strings.NewReader(stdin)
	c.cmd.Stderr = c.stderr
	c.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), asGuestTools + "=1"} // and no HOME
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.ended <- c.cmd.Wait() }()
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("guest-tools said:\n%s", c.stderr)
		}
	})
	return c
}

// end asks guest-tools to end, and returns the exit code.
func (c *tools) end() int {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Error(err)
	}
	return c.wait()
}

func (c *tools) wait() int {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-after(c.t):
		c.t.Fatal("guest-tools don't end")
	}
	return c.cmd.ProcessState.ExitCode()
}

func task(script string) string {
	return answer("200 OK", "", fmt.Sprintf(`{"env":{"GREETING":"hello, \"guest\""},"command":["sh","-c",%q]}`, script))
}

func refusal(status, code string) string {
	return answer(status, "", fmt.Sprintf(`{"code":%q,"message":"as the script says"}`, code))
}

const (
	hello   = "POST /engine/v2/hello"
	execute = "GET /engine/v1/execute"
	poll    = "GET /engine/v1/poll"
	logBody = "POST /engine/v1/log"
	reply   = "POST /engine/v1/reply"
	succeed = "PUT /engine/v1/success"
	fail    = "PUT /engine/v1/failed"
)

// noHello is what every host of version 1 says to it.
var noHello = refusal("404 Not Found", "NoSuchEndPoint")

// oldHosts are the ways in which a host of version 1 may behave. Each has a golden file with all that
// goes over the wire.
var oldHosts = []struct {
	name    string
	answers map[string][]string
	drive   func(h *rawHost, dir string)
}{
	{
		name:    "success",
		answers: map[string][]string{execute: {task(`echo "$GREETING"; exec >&2; echo bye`)}},
		drive:   func(h *rawHost, _ string) { h.await(succeed, 1) },
	},
	{
		name:    "failed",
		answers: map[string][]string{execute: {task("exit 3")}},
		drive:   func(h *rawHost, _ string) { h.await(fail, 1) },
	},
	{
		name:    "nothing to run",
		answers: map[string][]string{execute: {answer("200 OK", "", `{"env":null,"command":null,"more":"ignored"}`)}},
		drive:   func(h *rawHost, _ string) { h.await(fail, 1) },
	},
	{
		name:    "command not found",
		answers: map[string][]string{execute: {answer("200 OK", "", `{"env":{},"command":["no-such-command"]}`)}},
		drive:   func(h *rawHost, _ string) { h.await(fail, 1) },
	},
	{
		name:    "actions",
		answers: map[string][]string{execute: {task("echo from the task > made; echo ready; while :; do sleep 1; done")}},
		drive: func(h *rawHost, dir string) {
			awaitFile(h.t, filepath.Join(dir, "made"))
			for i, action := range []string{
				`{"id":"a1","type":"get-artifact","path":"` + dir + `/made","command":null,"tty":false}`,
				`{"id":"a2","type":"get-artifact","path":"made","command":null,"tty":false}`,
				`{"id":"a3","type":"get-artifact","path":"` + dir + `/missing","command":null,"tty":false}`,
				`{"id":"a4","type":"get-artifact","path":"` + dir + `","command":null,"tty":false}`,
				`{"id":"a5","type":"list-folder","path":"` + dir + `","command":null,"tty":false}`,
				`{"id":"a6","type":"list-folder","path":"` + dir + `/missing","command":null,"tty":false}`,
			} {
				h.offer(action)
				h.await(reply, i+1)
			}
			h.offer(`{"id":"","type":"none","path":"","command":null,"tty":false}`,
				`{"id":"a7","type":"dance","path":"","command":null,"tty":false}`,
				`{"id":"a8","type":"exec-shell","path":"","command":["sh"],"tty":true}`,
				`{"id":"a9","type":"kill-process","path":"","command":null,"tty":false,"signal":"TERM"}`)
			h.await(reply, 7)
			h.await(fail, 1)
		},
	},
	{
		name:    "resolved already",
		answers: map[string][]string{execute: {refusal("409 Conflict", "ResourceConflict")}},
		drive: func(h *rawHost, _ string) {
			h.offer(`{"id":"a1","type":"kill-process","path":"","command":null,"tty":false}`)
			h.await(reply, 1)
		},
	},
	{
		name: "refusals that pass",
		answers: map[string][]string{
			execute: {refusal("500 Internal Server Error", "InternalError"), answer("405 Method Not Allowed", "Allow: GET\r\n", `{"code":"MethodNotAllowed","message":"?"}`), task("exit 0")},
			poll:    {refusal("500 Internal Server Error", "InternalError"), refusal("404 Not Found", "NoSuchEndPoint")},
			succeed: {refusal("500 Internal Server Error", "InternalError"), plainOK},
		},
		drive: func(h *rawHost, _ string) {
			h.await(succeed, 2)
			h.await(poll, 2)
		},
	},
	{
		name: "refusals for good",
		answers: map[string][]string{
			execute: {task("echo text; exit 0")},
			logBody: {refusal("500 Internal Server Error", "InternalError")},
			reply:   {refusal("400 Bad Request", "UnknownActionId"), refusal("400 Bad Request", "InvalidPayload")},
			fail:    {refusal("409 Conflict", "ResourceConflict")},
		},
		drive: func(h *rawHost, _ string) {
			h.await(fail, 1)
			for i, id := range []string{"a1", "a2"} {
				h.offer(`{"id":"` + id + `","type":"list-folder","path":"/missing","command":null,"tty":false}`)
				h.await(reply, i+1)
			}
		},
	},
}

func TestOldHosts(t *testing.T) {
	for _, test := range oldHosts {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.answers[hello] = []string{noHello}
			h := newRawHost(t, test.answers)
			guest := startTools(t, dir, "", "--host", h.listener.Addr().String())
			test.drive(h, dir)
			if code := guest.end(); code != exitOK {
				t.Errorf("guest-tools ended with exit code %d", code)
			}
			golden(t, test.name, h.transcript(map[string]string{dir: "$DIR", os.Getenv("PATH"): "$PATH"}))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "oldhost", strings.ReplaceAll(name, " ", "-")+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("what went over the wire is not what %s has. It is\n%s", path, got)
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	deadline := after(t)
	for {
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s never came", path)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestPostLog(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newRawHost(t, map[string][]string{logBody: {plainOK, plainOK, refusal("500 Internal Server Error", "InternalError")}})
	address := h.listener.Addr().String()
	for i, test := range []struct {
		file, stdin string
		code        int
		says        string
	}{
		{file: file},
		{file: "-", stdin: "from a pipe\n"},
		{file: "-", stdin: "refused\n", code: exitFailure, says: "InternalError"},
	} {
		c := startTools(t, dir, test.stdin, "post-log", "--host", address, test.file)
		if code := c.wait(); code != test.code || !strings.Contains(c.stderr.String(), test.says) {
			t.Errorf("run %d: exit code %d, %q", i, code, c.stderr)
		}
	}
	golden(t, "post-log", h.transcript(nil))

	c := startTools(t, dir, "", "post-log", "--host", address, file+".missing")
	if code := c.wait(); code != exitFailure || !strings.Contains(c.stderr.String(), "no such file") {
		t.Errorf("a file that isn't there: exit code %d, %q", code, c.stderr)
	}
	h.close()
	c = startTools(t, dir, "text", "post-log", "--host", address, "-")
	if code := c.wait(); code != exitFailure || !strings.Contains(c.stderr.String(), "connection refused") {
		t.Errorf("without a host: exit code %d, %q", code, c.stderr)
	}
}

// A signal ends the task with all that came of it, and the second one doesn't wait for it.
func TestSignals(t *testing.T) {
	dir := t.TempDir()
	h := newRawHost(t, map[string][]string{
		hello:   {noHello},
		execute: {task(`trap "" TERM; echo $$ > pid; while :; do sleep 1; done`)},
	})
	guest := startTools(t, dir, "", "--host", h.listener.Addr().String())
	awaitFile(t, filepath.Join(dir, "pid"))
	start := time.Now()
	if err := guest.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	deadline := after(t)
	for !strings.Contains(guest.stderr.String(), "msg=ending") {
		select {
		case <-deadline:
			t.Fatal("nothing was said of an end")
		case <-time.After(5 * time.Millisecond):
		}
	}
	if code := guest.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(start); took > 4900*time.Millisecond {
		t.Errorf("the second signal didn't hurry it: %s", took)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	var task int
	if _, err := fmt.Sscan(string(pid), &task); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(task, 0); err == nil {
		t.Errorf("the task %d lives on", task)
	}
}
