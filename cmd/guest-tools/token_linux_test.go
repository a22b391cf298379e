package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// asNobody runs f on a thread that looks at files as another user does.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with the goroutine
		if err := syscall.Setfsuid(65534); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// The firmware's token is root's: guest-tools of another user are as they were before there was one. A file
// that was given must be theirs.
func TestTheFirmwaresTokenIsForRoot(t *testing.T) {
	path := writeFile(t, secret, 0o400)
	for dir := filepath.Dir(path); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	asNobody(t, func() {
		var words bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&words, nil))
		if token, err := findToken("", path, logger); err != nil || !token.IsZero() || !strings.Contains(words.String(), "root alone") {
			t.Errorf("%v, %v, and it tells %q", token, err, &words)
		}
		if _, err := findToken(path, path+"x", logger); err == nil || !strings.Contains(err.Error(), "--token-file") {
			t.Errorf("a file that was given: %v", err)
		}
	})
}

// What stands in the arguments of a process is for everybody to see.
func TestTheTokenIsNoArgument(t *testing.T) {
	host := newRawHost(t, map[string][]string{
		"POST /engine/v2/hello":  {helloWithTokens()},
		"GET /engine/v1/execute": {task("sleep 1000")},
	})
	tools := startTools(t, t.TempDir(), "", "--token-file", writeFile(t, secret, 0o600), "--host", host.listener.Addr().String())
	host.await("GET /engine/v1/execute", 1)
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tools.cmd.Process.Pid))
	if err != nil || !bytes.Contains(arguments, []byte("--token-file")) || bytes.Contains(arguments, []byte(secret)) {
		t.Errorf("its arguments are %q, %v", arguments, err)
	}
	if code := tools.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
