//go:build unix

package scripts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

type childrenKey struct{}

// children are the programs that a script started.
type children struct {
	mu     sync.Mutex // guards byName
	byName map[string]*child
}

type child struct {
	cmd     *exec.Cmd
	ended   chan struct{}
	outputs []io.Closer
}

// end kills what still runs.
func (c *children) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, child := range c.byName {
		select {
		case <-child.ended:
		default:
			child.cmd.Process.Kill()
			<-child.ended
		}
	}
}

func usage(ts *testscript.TestScript, neg bool, args []string, least int, text string) {
	if neg || len(args) < least {
		ts.Fatalf("usage: %s", text)
	}
}

// command is a program as a script names it, in the script's folder and environment.
func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	program := args[0]
	if !strings.Contains(program, "/") {
		for folder := range strings.SplitSeq(ts.Getenv("PATH"), ":") {
			if info, err := os.Stat(folder + "/" + program); err == nil && info.Mode()&0o111 != 0 {
				program = folder + "/" + program
				break
			}
		}
	}
	cmd := exec.Command(program, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environ(ts)
	return cmd
}

// environ is what programs get of the script's environment.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "WORK", "BIN", "GORACE", marker, "FROM_HERE"} {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return append(env, "PWD="+ts.MkAbs("."))
}

// finish runs a program to its end, within a time, and holds it to its exit code.
func finish(ts *testscript.TestScript, cmd *exec.Cmd, code string, limit time.Duration) {
	begun := time.Now()
	ts.Check(cmd.Start())
	ended := make(chan struct{})
	go func() { // ends with the program
		defer close(ended)
		cmd.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(limit + patience):
		cmd.Process.Signal(syscall.SIGQUIT) // it tells where it hangs
		<-ended
		ts.Fatalf("%s hangs", cmd.Args[0])
	}
	if got := exitCode(cmd); got != code {
		ts.Fatalf("%s exited with %s, not %s", cmd.Args[0], got, code)
	}
	if took := time.Since(begun); limit > 0 && took > limit {
		ts.Fatalf("%s took %s, more than %s", cmd.Args[0], took, limit)
	}
}

// exitCode is a program's exit code, as a shell tells it.
func exitCode(cmd *exec.Cmd) string {
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return strconv.Itoa(128 + int(status.Signal()))
	}
	return strconv.Itoa(cmd.ProcessState.ExitCode())
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "exits CODE PROGRAM [ARG...]")
	run(ts, args[0], 0, args[1:])
}

func within(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 3, "within TIME CODE PROGRAM [ARG...]")
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	run(ts, args[1], limit, args[2:])
}

func run(ts *testscript.TestScript, code string, limit time.Duration, args []string) {
	var stdout, stderr bytes.Buffer
	cmd := command(ts, args)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	defer func() {
		ts.Stdout().Write(stdout.Bytes())
		ts.Stderr().Write(stderr.Bytes())
	}()
	finish(ts, cmd, code, limit)
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "start NAME PROGRAM [ARG...]")
	stdout, err := os.Create(ts.MkAbs(args[0] + ".out"))
	ts.Check(err)
	launch(ts, args, stdout)
}

// unread is start with a standard output that stays open, and that nobody reads.
func unread(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "unread NAME PROGRAM [ARG...]")
	reader, writer, err := os.Pipe()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".out"), nil, 0o600))
	launch(ts, args, writer, reader)
}

func launch(ts *testscript.TestScript, args []string, stdout *os.File, others ...io.Closer) {
	stderr, err := os.Create(ts.MkAbs(args[0] + ".err"))
	ts.Check(err)
	c := &child{cmd: command(ts, args[1:]), ended: make(chan struct{}), outputs: append(others, stdout, stderr)}
	c.cmd.Stdout, c.cmd.Stderr = stdout, stderr
	ts.Check(c.cmd.Start())
	go func() { // ends with the program, and children.end waits for it
		defer close(c.ended)
		c.cmd.Wait()
		for _, output := range c.outputs {
			output.Close()
		}
	}()
	all := ts.Value(childrenKey{}).(*children)
	all.mu.Lock()
	defer all.mu.Unlock()
	all.byName[args[0]] = c
}

func named(ts *testscript.TestScript, name string) *child {
	all := ts.Value(childrenKey{}).(*children)
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.byName[name] == nil {
		ts.Fatalf("nothing was started as %s", name)
	}
	return all.byName[name]
}

func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "signal NAME INT|TERM|HUP|KILL")
	signals := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "KILL": os.Kill}
	ts.Check(named(ts, args[0]).cmd.Process.Signal(signals[args[1]]))
}

func ends(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "ends NAME CODE [TIME]")
	limit := patience
	if len(args) > 2 {
		var err error
		limit, err = time.ParseDuration(args[2])
		ts.Check(err)
	}
	c := named(ts, args[0])
	defer func() {
		io.WriteString(ts.Stdout(), ts.ReadFile(args[0]+".out"))
		io.WriteString(ts.Stderr(), ts.ReadFile(args[0]+".err"))
	}()
	select {
	case <-c.ended:
	case <-time.After(limit):
		c.cmd.Process.Signal(syscall.SIGQUIT) // it tells where it hangs
		<-c.ended
		ts.Fatalf("%s goes on after %s", args[0], limit)
	}
	if got := exitCode(c.cmd); got != args[1] {
		ts.Fatalf("%s exited with %s, not %s", args[0], got, args[1])
	}
}

// await looks until there is nothing left to complain of.
func await(ts *testscript.TestScript, look func() error) {
	deadline := time.Now().Add(patience)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v after %s", err, patience)
		}
		pause()
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "until PATTERN FILE")
	find(ts, args[0], args[1])
}

// find waits until a file matches, and returns the match with its groups.
func find(ts *testscript.TestScript, pattern, file string) (found []string) {
	expression, err := regexp.Compile("(?m)" + pattern)
	ts.Check(err)
	await(ts, func() error {
		text, err := os.ReadFile(ts.MkAbs(file))
		if found = expression.FindStringSubmatch(string(text)); found == nil {
			return fmt.Errorf("%s does not match %q: %q, %v", file, pattern, text, err)
		}
		return nil
	})
	return found
}

func address(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "address NAME")
	ts.Setenv("ADDRESS", find(ts, `^metaservice: serving on (\S+)$`, args[0]+".err")[1])
}

func gone(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "gone FILE")
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	await(ts, func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("the process %d of %s is there", pid, args[0])
		}
		return nil
	})
}

func deaf(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "deaf CODE PROGRAM [ARG...]")
	reader, writer, err := os.Pipe()
	ts.Check(err)
	reader.Close()
	defer writer.Close()
	var stderr bytes.Buffer
	cmd := command(ts, args[1:])
	cmd.Stdout, cmd.Stderr = writer, &stderr
	defer func() { ts.Stderr().Write(stderr.Bytes()) }()
	finish(ts, cmd, args[0], 0)
}

func unfed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "unfed CODE PROGRAM [ARG...]")
	reader, writer, err := os.Pipe()
	ts.Check(err)
	defer reader.Close()
	defer writer.Close()
	cmd := command(ts, args[1:])
	cmd.Stdin = reader
	finish(ts, cmd, args[0], 0)
}

func terminal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "terminal CODE PROGRAM [ARG...]")
	master, slave, err := pty.Open()
	ts.Check(err)
	var stdout, stderr bytes.Buffer
	shown := make(chan struct{})
	go func() { // ends when nobody has the terminal open
		defer close(shown)
		io.Copy(&stderr, master)
	}()
	cmd := command(ts, args[1:])
	cmd.Stdout, cmd.Stderr = &stdout, slave
	defer func() {
		slave.Close()
		<-shown
		master.Close()
		ts.Stdout().Write(stdout.Bytes())
		ts.Stderr().Write(stderr.Bytes())
	}()
	finish(ts, cmd, args[0], 0)
}

func field(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 3, "json FILE FIELD VALUE")
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &value))
	for name := range strings.SplitSeq(args[1], ".") {
		switch inside := value.(type) {
		case map[string]any:
			found, ok := inside[name]
			if !ok {
				ts.Fatalf("%s has no field %s", args[0], args[1])
			}
			value = found
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(inside) {
				ts.Fatalf("%s has no %s among %d", args[0], args[1], len(inside))
			}
			value = inside[i]
		default:
			ts.Fatalf("%s has no field %s", args[0], args[1])
		}
	}
	got, err := json.Marshal(value)
	ts.Check(err)
	if text, ok := value.(string); ok {
		got = []byte(text)
	}
	if string(got) != args[2] {
		ts.Fatalf("%s of %s is %s, not %s", args[1], args[0], got, args[2])
	}
}
