//go:build linux

package qemu_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/ports"
)

const secret = "a token that nobody may see"

// Everybody on the host can read a program's arguments and many its log. QEMU reads the token from a
// pipe, and nobody can after it.
func TestTokenIsForQEMUAlone(t *testing.T) {
	var logged bytes.Buffer
	console := new(consoleLog)
	c := config(t, `tr '\0' '\n' </proc/$$/cmdline; tr '\0' '\n' </proc/$$/environ; echo; echo it is `+"`cat <&5`; echo then `cat <&5`; echo its own words >&2; exit 1")
	c.Console = func() (io.WriteCloser, error) { return console, nil }
	c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler(), Token: secret})
	if err != nil {
		t.Fatal(err)
	}
	_ = await(t, guest)
	if err := guest.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	shown, read, found := strings.Cut(console.String(), "it is ")
	if !found || read != secret+"\nthen\n" {
		t.Errorf("QEMU reads %q", read)
	}
	if strings.Contains(shown, secret) || strings.Contains(logged.String(), secret) {
		t.Errorf("the token is shown:\n%s\n%s", shown, &logged)
	}
	if !strings.Contains(shown, "-fw_cfg\nname="+qemu.TokenName+",file=/proc/self/fd/5\n") {
		t.Errorf("the firmware isn't told:\n%s", shown)
	}
}

func TestNoToken(t *testing.T) {
	console := new(consoleLog)
	c := config(t, `tr '\0' '\n' </proc/$$/cmdline; ls /proc/$$/fd`)
	c.Console = func() (io.WriteCloser, error) { return console, nil }
	_ = await(t, boot(t, c))
	if says := console.String(); strings.Contains(says, "fw_cfg") || strings.Contains(says, "\n5\n") || !strings.Contains(says, "\n3\n") {
		t.Errorf("QEMU got more than it should:\n%s", says)
	}
}

func TestTokenThatIsTooLong(t *testing.T) {
	c := config(t, "")
	_, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler(), Token: strings.Repeat("x", 4097)})
	if err == nil || !strings.Contains(err.Error(), "it has 4097 bytes, at most 4096 can be") || strings.Contains(err.Error(), "xx") {
		t.Errorf("%v", err)
	}
	guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler(), Token: strings.Repeat("x", 4096)})
	if err != nil {
		t.Fatal(err)
	}
	_ = guest.Stop(t.Context())
}

// What a guest writes has no name on the host: whoever is killed, nothing is left.
func TestOverlayHasNoName(t *testing.T) {
	needImg(t)
	console := new(consoleLog)
	c := config(t, `readlink /proc/$$/fd/4; `+qemu.DefaultImageProgram+` info /proc/$$/fd/4; echo up; exec sleep 1000`)
	c.Folder, c.Console = t.TempDir(), func() (io.WriteCloser, error) { return console, nil }
	c.Image.Disk, c.Image.DiskFormat = "disk", "raw"
	if err := os.WriteFile(c.Image.DiskFile(), make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	boot(t, c)
	awaitText(t, console, "up\n")
	if names, err := os.ReadDir(c.Folder); err != nil || len(names) > 0 {
		t.Errorf("in the folder are %v, %v", names, err)
	}
	for _, want := range []string{c.Folder + "/", " (deleted)\n", "file format: qcow2\n", "virtual size: 1 MiB (1049088 bytes)\n"} {
		if !strings.Contains(console.String(), want) {
			t.Errorf("the overlay is %s, want %q", console, want)
		}
	}
}

func TestFilesWithoutNames(t *testing.T) {
	for name, open := range map[string]func(string) (*os.File, error){"at once": qemu.OpenNameless, "in two steps": qemu.OpenAndRemove} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			file, err := open(folder)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if _, err := file.WriteString("x"); err != nil {
				t.Error(err)
			}
			info, err := file.Stat()
			if err != nil || info.Mode() != 0o600 || info.Size() != 1 {
				t.Errorf("%v, %v", info, err)
			}
			if names, err := os.ReadDir(folder); err != nil || len(names) > 0 {
				t.Errorf("in the folder are %v, %v", names, err)
			}
			if _, err := open(filepath.Join(folder, "nowhere")); err == nil {
				t.Error("a folder that isn't there is taken")
			}
		})
	}
}

func awaitText(t *testing.T, console *consoleLog, text string) {
	t.Helper()
	for over := time.Now().Add(patience); !strings.Contains(console.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(over) {
			t.Fatalf("it doesn't say %q: %s", text, console)
		}
	}
}

// alive tells whether a process runs: one that has ended may wait for whoever takes its state.
func alive(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(status, []byte(") "))
	return err == nil && !bytes.HasPrefix(rest, []byte("Z"))
}

// A program that is a script has a child that is QEMU. It once was left, and Stop waited for its last words
// for ever.
func TestProgramThatStartsAnother(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		dies   bool
	}{
		"and waits":           {`sleep 1000 & echo $!; wait`, false},
		"and waits come what": {`trap '' TERM; sleep 1000 & echo $!; wait`, false},
		"and ends":            {`sleep 1000 & echo $!`, true},
	} {
		t.Run(name, func(t *testing.T) {
			console := new(consoleLog)
			c := config(t, test.script)
			c.Console = func() (io.WriteCloser, error) { return console, nil }
			guest := boot(t, c)
			awaitText(t, console, "\n")
			pid, err := strconv.Atoi(strings.TrimSpace(console.String()))
			if err != nil {
				t.Fatal(err)
			}
			if test.dies {
				if err := await(t, guest); err == nil || !strings.Contains(err.Error(), "exit status 0") {
					t.Errorf("%v", err)
				}
			}
			begun := time.Now()
			if err := guest.Stop(context.Background()); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took > patience/2 {
				t.Errorf("Stop took %s", took)
			}
			for over := time.Now().Add(patience); alive(pid); time.Sleep(time.Millisecond) {
				if time.Now().After(over) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
					t.Fatal("the child lives on")
				}
			}
		})
	}
}

// What left the program's process group can't be ended with it. Stop ends all the same, and tells who it is.
func TestProgramWhoseChildLeaves(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("there is no setsid")
	}
	console := new(consoleLog)
	c := config(t, `setsid sleep 1000 & echo $!; wait`)
	c.Console = func() (io.WriteCloser, error) { return console, nil }
	guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	awaitText(t, console, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(console.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	for over := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // until it has left
		if group, err := syscall.Getpgid(pid); err != nil || group == pid {
			break
		}
		if time.Now().After(over) {
			t.Fatal("it stays in its group")
		}
	}
	begun := time.Now()
	err = guest.Stop(context.Background())
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("it is process %d", pid)) {
		t.Errorf("%v, want one that names %d", err, pid)
	}
	if took := time.Since(begun); took > patience/2 {
		t.Errorf("Stop took %s", took)
	}
	if console.closed != 1 {
		t.Errorf("the console was closed %d times", console.closed)
	}
}

// stuckLog is a console's log that takes nothing until it may.
type stuckLog struct{ free, closed chan struct{} }

func (l stuckLog) Write(p []byte) (int, error) { <-l.free; return len(p), nil }
func (l stuckLog) Close() error                { close(l.closed); return nil }

// A log that takes nothing holds nobody up for ever.
func TestConsoleLogThatBlocks(t *testing.T) {
	t.Parallel()
	log := stuckLog{make(chan struct{}), make(chan struct{})}
	c := config(t, `echo words`)
	c.Console = func() (io.WriteCloser, error) { return log, nil }
	guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	if err := await(t, guest); err == nil || !strings.Contains(err.Error(), "words") {
		t.Errorf("%v", err)
	}
	if err := guest.Stop(context.Background()); err == nil || !strings.Contains(err.Error(), "whoever takes the guest's console goes on") {
		t.Errorf("%v", err)
	}
	<-log.closed
	close(log.free)
}
