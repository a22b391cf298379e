//go:build linux

package vm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/hexworker/metaservice"
)

// TestClockThatJumps: a guest whose clock is set amid its task and a shell, by decades back and forth, loses
// neither: every time-out of its tools, and of its host, is measured on a clock that nobody can set.
func TestClockThatJumps(t *testing.T) {
	engine := newEngine(t, newMachine(t), 1)
	defer dispose(t, engine)
	sandbox, out := begin(t, engine, "echo begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; date +%Y; echo kept >/tmp/kept", nil)
	eventually(t, "the task does not begin", func() bool { return strings.Contains(out.String(), "begun") })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	shell, err := sandbox.OpenShell(ctx, metaservice.ShellSpec{Command: []string{"sh"}})
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, shell.StderrPipe()) // ends with the shell
	lines := bufio.NewReader(shell.StdoutPipe())
	for _, year := range []string{"1999", "2036", "2005"} {
		if _, err := fmt.Fprintf(shell.StdinPipe(), "date -s '%s-02-03 04:05:06' >/dev/null; date +%%Y\n", year); err != nil {
			t.Fatal(err)
		}
		if line, err := lines.ReadString('\n'); err != nil || line != year+"\n" {
			t.Fatalf("after the jump to %s the shell says %q, %v", year, line, err)
		}
	}
	if _, err := io.WriteString(shell.StdinPipe(), "touch /tmp/go; exit 5\n"); err != nil {
		t.Fatal(err)
	}
	if result, err := shell.Result(ctx); err != nil || result.Report == nil || result.Report.ExitCode != 5 {
		t.Errorf("the shell ended with %+v, %v", result, err)
	}
	result, err := sandbox.WaitForResult(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer result.Dispose()
	if outcome := result.Outcome(); !outcome.Succeeded() || out.String() != "begun\n2005\n" {
		t.Errorf("the task ended as %s, %v, with the log %q", outcome.Status, outcome.Err, out)
	}
	file, err := result.ExtractFile(ctx, "/tmp/kept")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if content, err := io.ReadAll(file); err != nil || string(content) != "kept\n" {
		t.Errorf("the file holds %q, %v", content, err)
	}
}
