//go:build unix

package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/hexworker/metaservice/domain"
)

// TestMain is the guard of a test's terminal, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == guardCommand {
		os.Exit(guardMain())
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // of the guards: each test waits for its own
	os.Exit(m.Run())
}

// screen is a terminal, with who types at it, and a console on it.
func screen(t *testing.T) (typist, slave *os.File, c *console) {
	t.Helper()
	typist, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		typist.Close()
		slave.Close()
	})
	if err := pty.Setsize(slave, &pty.Winsize{Rows: 30, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	to := streams{in: slave, out: slave, err: slave}
	return typist, slave, newConsole(newSetting(to, false), to, terminalWhereThereIs(to))
}

func state(t *testing.T, terminal *os.File) term.State {
	t.Helper()
	state, err := term.GetState(int(terminal.Fd()))
	if err != nil {
		t.Error(err)
		return term.State{}
	}
	return *state
}

// eventually waits until something is so.
func eventually(t *testing.T, otherwise string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !so(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error(otherwise)
			return
		}
	}
}

func TestTerminalIsRawForTheShellAlone(t *testing.T) {
	typist, slave, c := screen(t)
	before := state(t, slave)
	opener := &fakeOpener{}
	opened, err := c.open(opener)
	if err != nil || opener.asked[0].Columns != 100 || opener.asked[0].Rows != 30 || !opener.asked[0].TTY {
		t.Fatalf("%v, %+v", err, opener.asked)
	}
	session := opened.(*fakeSession)
	go func() {
		eventually(t, "the terminal is not raw", func() bool { return state(t, slave) != before })
		typist.Write([]byte("\x03\r\x1d\x1d")) // nothing of which a terminal would pass on as it is
		got := make([]byte, 4)
		io.ReadFull(session.stdin, got)
		if string(got) != "\x03\r\x1d\x1d" {
			t.Errorf("the keys came as %q", got)
		}
		session.stdout.Write([]byte("\x1b[?1049hab\n"))
		session.exit(4)
	}()
	if status, why := c.attach(session).verdict(); status != 4 || why != nil {
		t.Errorf("%d, %v", status, why)
	}
	if state(t, slave) != before {
		t.Error("the terminal is not as it was")
	}
	shown := make([]byte, len("\x1b[?1049hab\n"))
	if _, err := io.ReadFull(typist, shown); err != nil || string(shown) != "\x1b[?1049hab\n" { // no carriage return of ours
		t.Errorf("it shows %q, %v", shown, err)
	}
}

// A guest that hangs takes no keys, and the way out must be heard all the same.
func TestTheWayOutOfAShellThatTakesNothing(t *testing.T) {
	typist, slave, c := screen(t)
	before := state(t, slave)
	session := newFakeSession()
	go func() {
		eventually(t, "the terminal is not raw", func() bool { return state(t, slave) != before })
		typist.Write(bytes.Repeat([]byte("x"), 1000))
		typist.Write([]byte("\x1d\x1d\x1d"))
	}()
	status, why := c.attach(session).verdict()
	if status != 130 || why == nil || state(t, slave) != before {
		t.Errorf("%d, %v", status, why)
	}
}

// broken is a shell whose adapter has a defect.
type broken struct{ *fakeSession }

func (broken) Result(context.Context) (domain.Result, error) { panic("a defect") }

func TestTerminalIsRestoredInAPanic(t *testing.T) {
	for name, panics := range map[string]func(c *console){
		"here": func(c *console) {
			session := newFakeSession()
			session.exit(0)
			c.attach(broken{session})
		},
		"in a goroutine of it": func(c *console) {
			c.terminal.raw()
			defer c.terminal.restoreInPanic()
			panic("a defect")
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, slave, c := screen(t)
			before := state(t, slave)
			func() {
				defer func() {
					if recover() != "a defect" {
						t.Error("it didn't panic")
					}
				}()
				panics(c)
			}()
			if state(t, slave) != before {
				t.Error("the terminal is not as it was")
			}
		})
	}
}

func TestResizesAreFollowed(t *testing.T) {
	_, slave, c := screen(t)
	session := newFakeSession()
	before := state(t, slave)
	go func() {
		eventually(t, "the terminal is not raw", func() bool { return state(t, slave) != before })
		pty.Setsize(slave, &pty.Winsize{Rows: 50, Cols: 132})
		syscall.Kill(syscall.Getpid(), syscall.SIGWINCH)
		eventually(t, "the size is not followed", func() bool {
			session.mu.Lock()
			defer session.mu.Unlock()
			return slices.Contains(session.sizes, "132x50")
		})
		session.exit(0)
	}()
	c.attach(session)
	if session.sizes[0] != "100x30" { // it was never opened, so no shell knew
		t.Error(session.sizes)
	}
}

// What is typed when the shell has ended is for whoever reads the terminal next.
func TestInputIsLeftWhereItIsOnceNobodyWantsIt(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	input, stop := newInput(reader)
	ended := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, input)
		ended <- err
	}()
	stop()
	if err := <-ended; err != errStopped {
		t.Error(err)
	}
	writer.Write([]byte("next"))
	got := make([]byte, 4)
	if _, err := io.ReadFull(reader, got); err != nil || string(got) != "next" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestShellsHaveATerminalWhereThereAreTwo(t *testing.T) {
	_, slave, _ := screen(t)
	var buffer bytes.Buffer
	for _, test := range []struct {
		to   streams
		args []string
		want bool
	}{
		{streams{slave, slave, slave}, nil, true},
		{streams{slave, slave, &buffer}, nil, true},
		{streams{slave, &buffer, slave}, nil, false},
		{streams{&buffer, slave, slave}, nil, false},
		{streams{&buffer, &buffer, slave}, []string{"--tty"}, true},
		{streams{slave, slave, slave}, []string{"--no-tty"}, false},
	} {
		var flags shellFlags
		cmd := shellCommand(test.to)
		cmd.ResetFlags()
		flags.add(cmd)
		if err := cmd.ParseFlags(test.args); err != nil {
			t.Fatal(err)
		}
		spec, err := flags.spec(cmd, nil, test.to)
		if err != nil || spec.TTY != test.want {
			t.Errorf("%v: %v, %v", test.args, spec.TTY, err)
		}
	}
}
