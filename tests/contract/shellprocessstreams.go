package contract

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

var shellStreams = map[string]func(*testing.T, ports.Shells){
	"bytes come back as they went":           shellEcho,
	"a terminal passes raw bytes":            shellRawTerminal,
	"the outputs are apart":                  shellApart,
	"one output stands, the other goes on":   shellStalled,
	"a child holds the streams open":         shellChildHolds,
	"a child floods one output":              shellChildFloods,
	"the outputs end while the command runs": shellOutputsEnd,
}

var shellInputs = map[string]func(*testing.T, ports.Shells){
	"the input's end":                         shellInputEnd,
	"an input that nobody reads":              shellInputUnread,
	"a blocked write and the input's closing": shellInputClose,
	"a blocked write and the command's end":   shellInputCommandEnd,
	"a blocked write and a kill":              shellInputKill,
	"a write after the end":                   shellInputAfter,
	"an input that the command closes":        shellInputBroken,
	"an input that is closed from two sides":  shellInputClosedTwice,
}

func randomBytes(t *testing.T, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	return data
}

// feed writes all of data beside the test, in pieces of many sizes, and ends the input.
func feed(process ports.ShellProcess, data []byte, end bool) (fed chan error) {
	fed = make(chan error, 1)
	go func() {
		for size := 1; len(data) > 0; size = size*3%(300<<10) + 1 {
			n, err := process.Stdin().Write(data[:min(size, len(data))])
			if err != nil {
				fed <- err
				return
			}
			data = data[n:]
		}
		if end {
			fed <- process.Stdin().Close()
			return
		}
		fed <- nil
	}()
	return fed
}

func shellEcho(t *testing.T, shells ports.Shells) {
	data := randomBytes(t, 20<<20+7)
	for _, script := range []string{"cat", "cat 1>&2"} {
		process := startShell(t, shells, shell(t, script))
		fed := feed(process, data, true)
		out, errOut := readBoth(t, process)
		if err := <-fed; err != nil {
			t.Errorf("%s: %v", script, err)
		}
		if script != "cat" {
			out, errOut = errOut, out
		}
		if out != string(data) || errOut != "" {
			t.Errorf("%s: of %d bytes %d came, changed, and %d on the other stream", script, len(data), len(out), len(errOut))
		}
		wantReport(t, process, domain.Report{Reason: domain.ReasonExited})
	}
}

func shellRawTerminal(t *testing.T, shells ports.Shells) {
	data := randomBytes(t, 3<<20+7)
	process := startShell(t, shells, inTerminal(shell(t, `stty raw -echo; echo ready; head -c `+itoa(len(data))+` | cat`)))
	wantLine(t, process, "ready")
	fed := feed(process, data, false)
	got := readAll(t, process)
	if err := <-fed; err != nil {
		t.Error(err)
	}
	if got != string(data) {
		t.Errorf("of %d bytes %d came, or others", len(data), len(got))
	}
}

func shellApart(t *testing.T, shells ports.Shells) {
	const size = 4 << 20
	process := startShell(t, shells, shell(t, `head -c `+itoa(size)+` /dev/zero | tr '\0' e >&2 & head -c `+itoa(size)+` /dev/zero | tr '\0' o; wait`))
	out, errOut := readBoth(t, process)
	if out != strings.Repeat("o", size) || errOut != strings.Repeat("e", size) {
		t.Errorf("%d and %d bytes came, %d each would be right", len(out), len(errOut), size)
	}
}

func shellStalled(t *testing.T, shells ports.Shells) {
	const size = 8 << 20
	process := startShell(t, shells, shell(t, `head -c `+itoa(size)+` /dev/zero >&2 & head -c `+itoa(size)+` /dev/zero; exec >&-; wait`))
	if got := readAll(t, process); len(got) != size {
		t.Errorf("%d bytes came of %d", len(got), size)
	}
	if rest, err := stream(process, process.ErrOutput())(); err != nil || len(rest) != size {
		t.Errorf("of the other stream %d bytes came of %d, %v", len(rest), size, err)
	}
}

func shellChildHolds(t *testing.T, shells ports.Shells) {
	const script = "setsid sh -c 'echo done; exec sleep 1000' & read line; exit 3"
	process := startShell(t, shells, shell(t, script))
	wantLine(t, process, "done")
	send(t, process, "go\n")
	since := time.Now()
	if out, errOut := readBoth(t, process); out != "" || errOut != "" {
		t.Errorf("the outputs are %q and %q", out, errOut)
	}
	if took := time.Since(since); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	wantReport(t, process, domain.Report{ExitCode: 3, Reason: domain.ReasonExited})

	process = startShell(t, shells, inTerminal(shell(t, script)))
	wantLine(t, process, "done")
	send(t, process, "go\n")
	if got := readAll(t, process); got != "go\r\n" { // the echo
		t.Errorf("terminal: the output is %q", got)
	}
	wantReport(t, process, domain.Report{ExitCode: 3, Reason: domain.ReasonExited})
	if children := len(markedProcesses(t)); children != 2 {
		t.Errorf("of the children that hold the streams %d are alive, and so nothing was tested", children)
	}
}

func shellChildFloods(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, shell(t, "yes >&2 & exit 0"))
	out, errOut := stream(process, process.Output()), stream(process, process.ErrOutput())
	if text, err := errOut(); !errors.Is(err, ports.ErrOutputCut) || len(text) < 16<<20 {
		t.Errorf("of the flood %d bytes came, and then %v", len(text), err)
	}
	if text, err := out(); text != "" || err != nil {
		t.Errorf("the other stream is %q, %v", text, err)
	}
}

func shellOutputsEnd(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, shell(t, "echo out; echo error >&2; exec >/dev/null 2>&1; read line; exit 6"))
	if out, errOut := readBoth(t, process); out != "out\n" || errOut != "error\n" {
		t.Errorf("the outputs are %q and %q", out, errOut)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if report, err := process.Wait(ctx); err == nil {
		t.Errorf("it has ended: %+v", report)
	}
	send(t, process, "go\n")
	wantReport(t, process, domain.Report{ExitCode: 6, Reason: domain.ReasonExited})
}

func shellInputEnd(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, shell(t, "wc -c; exit 5"))
	send(t, process, "12345")
	if err := process.Stdin().Close(); err != nil {
		t.Error(err)
	}
	if got := readAll(t, process); strings.TrimSpace(got) != "5" {
		t.Errorf("it has read %q bytes", got)
	}
	wantReport(t, process, domain.Report{ExitCode: 5, Reason: domain.ReasonExited})
}

// fill writes beside the test until that fails.
func fill(process ports.ShellProcess) (written chan error) {
	written = make(chan error, 1)
	go func() {
		for chunk := bytes.Repeat([]byte("x"), 100<<10); ; {
			if _, err := process.Stdin().Write(chunk); err != nil {
				written <- err
				return
			}
		}
	}()
	return written
}

// wantFreed wants a write to fail, with an error that tells a stream's end.
func wantFreed(t *testing.T, kind string, written <-chan error) {
	t.Helper()
	select {
	case err := <-written:
		if !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: the write ended with %v", kind, err)
		}
	case <-time.After(processPatience):
		t.Fatalf("%s: the write goes on", kind)
	}
}

// blocked is a shell that says that it is ready, and doesn't read its input, with a write to it that has
// been blocked.
func blocked(t *testing.T, shells ports.Shells, spec ports.ProcessSpec) (ports.ShellProcess, <-chan error) {
	t.Helper()
	spec.Command[2] = "test -t 0 && stty raw -echo; " + spec.Command[2]
	process := startShell(t, shells, spec)
	wantLine(t, process, "ready")
	written := fill(process)
	select {
	case err := <-written:
		t.Fatalf("a write to what nobody reads: %v", err)
	case <-time.After(100 * time.Millisecond): // no time is enough to be sure, and any will do
	}
	return process, written
}

func bothBlocked(t *testing.T, shells ports.Shells, script string, test func(kind string, process ports.ShellProcess, written <-chan error)) {
	t.Helper()
	for kind, spec := range map[string]ports.ProcessSpec{"pipe": shell(t, script), "terminal": inTerminal(shell(t, script))} {
		process, written := blocked(t, shells, spec)
		test(kind, process, written)
	}
}

// shellInputUnread: what the command doesn't read holds up neither its end nor its output's.
func shellInputUnread(t *testing.T, shells ports.Shells) {
	bothWays(t, shell(t, "echo done; exit 4"), func(kind string, spec ports.ProcessSpec) {
		process := startShell(t, shells, spec)
		written := fill(process)
		if got := readAll(t, process); !strings.Contains(got, "done") {
			t.Errorf("%s: the output is %.100q", kind, got)
		}
		wantReport(t, process, domain.Report{ExitCode: 4, Reason: domain.ReasonExited})
		wantFreed(t, kind, written)
	})
}

func shellInputClose(t *testing.T, shells ports.Shells) {
	bothBlocked(t, shells, "echo ready; exec sleep 1000", func(kind string, process ports.ShellProcess, written <-chan error) {
		if err := process.Stdin().Close(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		wantFreed(t, kind, written)
	})
}

// shellInputCommandEnd: a child that holds the input open, and never reads it, must not hold the writer.
func shellInputCommandEnd(t *testing.T, shells ports.Shells) {
	bothBlocked(t, shells, "trap 'exit 8' TERM; setsid sh -c 'echo ready; exec sleep 1000' <&0 & wait; :", func(kind string, process ports.ShellProcess, written <-chan error) {
		if err := process.Terminate(); err != nil {
			t.Error(err)
		}
		wantFreed(t, kind, written)
		wantReport(t, process, domain.Report{ExitCode: 8, Reason: domain.ReasonExited})
		if len(markedProcesses(t)) == 0 {
			t.Errorf("%s: the child is gone, and so nothing was tested", kind)
		}
		killTree(t, context.Background(), process, processPatience)
	})
}

func shellInputKill(t *testing.T, shells ports.Shells) {
	bothBlocked(t, shells, "echo ready; sleep 1000; :", func(kind string, process ports.ShellProcess, written <-chan error) {
		killTree(t, context.Background(), process, processPatience)
		wantFreed(t, kind, written)
		wantReport(t, process, byTerm)
	})
}

func shellInputAfter(t *testing.T, shells ports.Shells) {
	bothWays(t, shell(t, "setsid sleep 1000 <&0 & exit 0"), func(kind string, spec ports.ProcessSpec) {
		process := startShell(t, shells, spec)
		waitReport(t, process)
		wantFreed(t, kind, fill(process))
		if err := process.Stdin().Close(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	})
}

// shellInputBroken: a signal of a broken pipe must not reach the one who writes.
func shellInputBroken(t *testing.T, shells ports.Shells) {
	process := startShell(t, shells, shell(t, "exec <&-; echo ready; sleep 1000; :"))
	wantLine(t, process, "ready")
	for range 2 {
		if _, err := process.Stdin().Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the write ended with %v", err)
		}
	}
	if err := process.Stdin().Close(); err != nil {
		t.Error(err)
	}
}

func shellInputClosedTwice(t *testing.T, shells ports.Shells) {
	bothBlocked(t, shells, "trap '' HUP; echo ready; sleep 1000; :", func(kind string, process ports.ShellProcess, written <-chan error) {
		closed := make(chan error, 4)
		for range cap(closed) {
			go func() { closed <- process.Stdin().Close() }()
		}
		for range cap(closed) {
			if err := <-closed; err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
		wantFreed(t, kind, written)
		if _, err := io.WriteString(process.Stdin(), "x"); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: a write after it: %v", kind, err)
		}
	})
}
