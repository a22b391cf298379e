package wire_test

import (
	"bytes"
	"flag"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with testdata/NAME.golden. The files end with a newline, which bodies don't.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	got = append(slices.Clip(got), '\n')
	if *update {
		if err := os.WriteFile(file, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has changed; peers that nobody can update depend on it:\n got %s\nwant %s", file, got, want)
	}
}

// must is for constructors in tables.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// sequence is a walk that finds these names.
func sequence(names []string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, name := range names {
			if !yield(name, nil) {
				return
			}
		}
	}
}

// files is a whole list as it is streamed.
func files(names ...string) []byte {
	var buf bytes.Buffer
	if err := wire.EncodeFiles(&buf, sequence(names)); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// What old peers depend on, byte for byte: old guests range over fields that must not be null, and old
// hosts and guests find fields by these names.
func TestGolden(t *testing.T) {
	bodies := map[string][]byte{
		"action-none":               wire.EncodeAction(domain.Action{}),
		"action-get-artifact":       wire.EncodeAction(must(domain.GetArtifact("id-1", "/tmp/x"))),
		"action-get-artifact-odd":   wire.EncodeAction(must(domain.GetArtifact("id-1", `C:\a "b"`+"\n\t\u2028<&>é"))),
		"action-list-folder":        wire.EncodeAction(must(domain.ListFolder("id-2", "/tmp"))),
		"action-exec-shell":         wire.EncodeAction(must(domain.ExecShell("id-3", domain.ShellSpec{Command: []string{"sh", "-c", ""}}))),
		"action-exec-shell-tty":     wire.EncodeAction(must(domain.ExecShell("id-3", domain.ShellSpec{Command: []string{"top"}, TTY: true}))),
		"action-exec-shell-default": wire.EncodeAction(must(domain.ExecShell("id-3", domain.ShellSpec{TTY: true}))),
		"action-exec-shell-full": wire.EncodeAction(must(domain.ExecShell("id-3", domain.ShellSpec{
			Command: []string{"top"}, TTY: true, Env: map[string]string{"A": "b"}, Dir: "/d", User: "u",
			Columns: 132, Rows: 50, Timeout: 1500 * time.Millisecond, NoStdin: true}))),
		"action-exec-shell-empty": wire.EncodeAction(must(domain.ExecShell("id-3", domain.ShellSpec{Command: []string{}}))),
		"action-get-folder":       wire.EncodeAction(must(domain.GetFolder("id-5", "/tmp/x"))),
		"archive":                 archive("a", "content", "d/é", "", "d/\xff", "!permission-denied"),
		"archive-empty":           archive(),
		"action-kill-process":     wire.EncodeAction(must(domain.KillProcess("id-4"))),
		"execute":                 wire.EncodeExecute(domain.Execute{Env: map[string]string{"B": "2", "A": "1=\n"}, Command: []string{"sh", "-c", "exit 3"}}),
		"execute-empty":           wire.EncodeExecute(domain.Execute{}),
		"files":                   files("/tmp/a", "/tmp/b c/\"d\"", "/tmp/é\x01"),
		"files-empty":             files(),
		"files-not-found":         wire.EncodeFilesNotFound(),
		"hello": wire.EncodeHello(domain.Hello{
			Version: "2.0.0", BootID: "b1", OS: "linux", Arch: "amd64", Features: domain.Features{domain.FeatureResult},
		}),
		"hello-without-features": wire.EncodeHello(domain.Hello{Version: "2.0.0", BootID: "b1", OS: "linux", Arch: "amd64"}),
		"features":               wire.EncodeFeatures(domain.Features{domain.FeatureResult}),
		"features-none":          wire.EncodeFeatures(nil),
		"report":                 wire.EncodeReport(domain.Report{ExitCode: 3, Reason: domain.ReasonExited}),
		"report-signal":          wire.EncodeReport(domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonSignaled, Message: "killed"}),
	}
	for code := range wire.Statuses {
		bodies["error-"+string(code)] = wire.EncodeError(&domain.Error{Code: code, Message: "what \"went\" wrong"})
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) { golden(t, name, body) })
	}
	kept, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range kept {
		if name := strings.TrimSuffix(filepath.Base(file), ".golden"); bodies[name] == nil {
			t.Errorf("%s belongs to no body any more", file)
		}
	}
}
