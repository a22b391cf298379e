//go:build linux

package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/ports"
)

// consoleLog is a guest's console, and knows when it is closed.
type consoleLog struct {
	mu     sync.Mutex
	text   bytes.Buffer
	closed int
}

func (c *consoleLog) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *consoleLog) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed++
	return nil
}

func (c *consoleLog) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// What ended a guest is read off its console's last words, which the error has, and QEMU's own.
func TestDeath(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		says   []string
	}{
		"reboot":    {`printf '[ 1.0] reboot: Restarting system\r\n'`, []string{"the guest rebooted (QEMU: exit status 0)", `last lines of its console: "[ 1.0] reboot: Restarting system"`}},
		"power off": {`echo 'reboot: Power down'`, []string{"the guest was powered off"}},
		"panic":     {`echo 'Kernel panic - not syncing: sysrq triggered crash'; echo 'reboot: Restarting system'`, []string{"the guest's kernel panicked", "sysrq"}},
		"memory":    {`echo 'Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled'`, []string{"the guest ran out of memory"}},
		"escapes":   {`printf 'a\033[31mred'; echo words >&2; exit 3`, []string{`the guest's machine ended (QEMU: exit status 3); QEMU says "words"`, `"a\x1b[31mred"`}},
		"runes":     {`printf '%0511d'; printf 'é'`, []string{`0é"`}}, // which were once cut into pieces of 512 bytes
		"silence":   {`exit 1`, []string{"exit status 1", "its console stayed silent"}},
		"a signal":  {`kill -SEGV $$`, []string{"signal: segmentation fault"}},
		"much":      {`i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done`, []string{`console: "line 1`, `\nline 1999"`}},
	} {
		t.Run(name, func(t *testing.T) {
			err := await(t, boot(t, config(t, test.script)))
			for _, want := range test.says {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			}
			if err != nil && len(err.Error()) > 6000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

// A guest that talks without end doesn't fill its log, and is heard to its last word all the same.
func TestConsoleLogIsBounded(t *testing.T) {
	console := new(consoleLog)
	c := config(t, `yes | head -c 100000; echo the last word`)
	c.Console, c.ConsoleBytes = func() (io.WriteCloser, error) { return console, nil }, 1000
	guest := boot(t, c)
	err := await(t, guest)
	if err == nil || !strings.HasSuffix(err.Error(), `the last word"`) {
		t.Errorf("%v", err)
	}
	if err := guest.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if want := strings.Repeat("y\n", 500) + "\n[the console goes on, and this log doesn't]\n"; console.String() != want {
		t.Errorf("the log is %q", console)
	}
	if console.closed != 1 {
		t.Errorf("it was closed %d times", console.closed)
	}
}

func TestConsoleThatCannotBeOpened(t *testing.T) {
	c := config(t, "")
	c.Console = func() (io.WriteCloser, error) { return nil, os.ErrPermission }
	if _, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v", err)
	}
}

// QEMU is told to end, and killed if it doesn't; a Stop in a hurry only kills.
func TestStopAsksThenKills(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		grace  time.Duration
		hurry  bool
		says   string
		within time.Duration
	}{
		"it ends":        {`trap 'echo told; exit' TERM; echo up; while :; do sleep 0.01; done`, patience, false, "up\ntold\n", patience / 2},
		"it won't":       {`trap '' TERM; echo up; exec sleep 1000`, 50 * time.Millisecond, false, "up\n", patience / 2},
		"it isn't asked": {`trap 'echo told; exit' TERM; echo up; while :; do sleep 0.01; done`, patience, true, "up\n", patience / 2},
	} {
		t.Run(name, func(t *testing.T) {
			console := new(consoleLog)
			c := config(t, test.script)
			c.Grace, c.Console = test.grace, func() (io.WriteCloser, error) { return console, nil }
			guest := boot(t, c)
			awaitText(t, console, "up")
			ctx, cancel := context.WithCancel(context.Background())
			if test.hurry {
				cancel()
			}
			begun := time.Now()
			err := guest.Stop(ctx)
			cancel()
			if err != nil || guest.Err() != nil {
				t.Errorf("%v, %v", err, guest.Err())
			}
			if took := time.Since(begun); took > test.within {
				t.Errorf("it took %s", took)
			}
			if console.String() != test.says {
				t.Errorf("it said %q", console)
			}
		})
	}
}

// A guest whose host can't hear it has ended.
func TestServerThatFails(t *testing.T) {
	for _, failure := range []error{errors.New("no more connections"), nil} {
		c := config(t, "exec sleep 1000")
		c.Serve = func(context.Context, net.Listener, http.Handler) error { return failure }
		err := await(t, boot(t, c))
		if err == nil || !strings.Contains(err.Error(), "the server that the guest talks to failed") || failure != nil && !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
	}
}

// A server that doesn't end when it is told is told of, and waited for no longer.
func TestServerThatGoesOn(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c := config(t, "exec sleep 1000")
	c.Serve = func(context.Context, net.Listener, http.Handler) error { <-release; return nil }
	guest, err := machine(t, c).Boot(t.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	if err := guest.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "the server that the guest talked to goes on") {
		t.Errorf("%v", err)
	}
	close(release)
}

// A QEMU that breaks its guest's network is of no use, whether it lives on or not.
func TestNetworkThatBreaks(t *testing.T) {
	t.Parallel()
	for script, says := range map[string]string{
		`exec 3>&-; exec sleep 1000`:                     "the guest's network has ended: QEMU has closed it",
		`printf '\377\377\377\377' >&3; exec sleep 1000`: "a frame of 4294967295 bytes was announced",
		`exec 3>&-; exit 4`:                              "exit status 4",
	} {
		if err := await(t, boot(t, config(t, script))); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// QEMU has none of the host's variables.
func TestWhatQEMUInherits(t *testing.T) {
	t.Setenv("METASERVICE_SECRET", "of the host")
	console := new(consoleLog)
	c := config(t, `tr '\0' '\n' </proc/$$/environ; pwd`)
	c.Console = func() (io.WriteCloser, error) { return console, nil }
	_ = await(t, boot(t, c))
	if want := "LC_ALL=C\nTMPDIR=" + os.TempDir() + "\n/\n"; console.String() != want {
		t.Errorf("its environment and its folder are %s", console)
	}
}

func TestBootWithACtxThatEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := machine(t, config(t, "")).Boot(ctx, ports.BootOptions{Handler: http.NotFoundHandler()}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
