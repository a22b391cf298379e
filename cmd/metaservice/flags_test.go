package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// line runs a command line that must not get as far as a machine.
func line(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = execute(args, streams{in: strings.NewReader(""), out: &out, err: &err})
	return status, out.String(), err.String()
}

func TestCommandLinesThatCannotBe(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	serve := func(args ...string) []string {
		return append(append([]string{"serve", "--listen", "127.0.0.1:0"}, args...), "--", "true")
	}
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"nothing":              {[]string{}, "say what to do: run, shell, serve, image, limits or version"},
		"no such command":      {[]string{"rum"}, `there is no command "rum", did you mean "run"?`},
		"another one":          {[]string{"frobnicate"}, "it must be run, shell, serve, image, limits or version"},
		"no such flag":         {[]string{"run", "--fast", "--", "x"}, "unknown flag: --fast"},
		"no task":              {[]string{"run"}, "there is no command to run: put it after '--'"},
		"no address":           {[]string{"serve", "--", "x"}, "--listen is missing"},
		"no such address":      {[]string{"serve", "--listen", "8080", "--", "x"}, "it must be HOST:PORT"},
		"arguments of version": {[]string{"version", "1"}, "takes no arguments"},
		"no time":              {serve("--timeout", "soon"), `invalid argument "soon" for "--timeout"`},
		"no time at all":       {serve("--timeout", "0s"), "it must be more than 0"},
		"less than no time":    {serve("--timeout", "-1s"), "it must be more than 0"},
		"a log on stdout":      {serve("--log", "-"), "standard output is the log's alone"},
		"a result on stdout":   {serve("--json", "-"), "standard output is the log's alone"},
		"a log without a name": {serve("--log", ""), "--log is empty"},
		"a log nowhere":        {serve("--log", "no/such/log"), "--log can't be written: its folder must be there"},
		"negative patience":    {serve("--artifact-timeout", "-1s"), "it can't be less than 0"},
		"no such limit":        {serve("--limit", "Logs_=1"), "the limits are ArtifactBytes, "},
		"no limit at all":      {serve("--limit", "LogBytes=0"), "it must be more than 0"},
		"a result nowhere":     {serve("--json", "no/such/json"), "its folder must be there"},
		"a result in a folder": {serve("--json", "."), "is no regular file"},
		"a result in a device": {serve("--json", os.DevNull), "is no regular file"},
		"an unset variable":    {serve("--env", "METASERVICE_UNSET"), "no such variable is set here"},
		"a nameless variable":  {serve("--env", "=x"), "it must be NAME=VALUE"},
		"a NUL":                {append(serve(), "a\x00b"), "argument 1 holds a NUL byte"},
		"no artifact":          {serve("--artifact", ""), "names nothing in the guest"},
		"no guest":             {serve("--artifact", "=x"), `without a path`},
		"no host":              {serve("--artifact", "x="), "says no place after '='"},
		"a nameless artifact":  {serve("--artifact", "."), "--artifact .=HOST"},
		"the root":             {serve("--artifact", "/"), "--artifact /=HOST"},
		"the folder above":     {serve("--artifact", "../.."), "say where it is to go"},
		"below a file":         {serve("--artifact", "x=file/below/x"), `"file" is no folder`},
		"twice the same place": {serve("--artifact", "a/x", "--artifact", "b/x"), "would both be written to"},
		"artifact over log":    {serve("--artifact", "a/x", "--log", "./x"), "would both be written to"},
		"a terminal and none":  {[]string{"shell", "-t", "-T"}, "--tty and --no-tty can't be both"},
		"a shell in no time":   {[]string{"shell", "--timeout", "0s"}, "it must be more than 0"},
		"a shell as nobody":    {[]string{"shell", "--user="}, "--user is empty"},
		"a shell nowhere":      {[]string{"shell", "-w", ""}, "--workdir is empty"},
		"a shell with a NUL":   {[]string{"shell", "--", "a\x00b"}, "argument 0 of the command holds a NUL byte"},
		"a shell's variable":   {[]string{"shell", "--env", "METASERVICE_UNSET"}, "no such variable is set here"},
		"a shell without end":  {[]string{"shell", "--limit", "Shells=0"}, "it must be more than 0"},
		"a shell's log":        {[]string{"shell", "--log", "x"}, "unknown flag: --log"},
		"a mode of tokens":     {serve("--token", "on"), "--token on: it must be auto, required or off"},
		"no mode of tokens":    {[]string{"shell", "--token", ""}, "it must be auto, required or off"},
		"log over json":        {serve("--json", "x", "--log", folder+"/x"), "would both be written to"},
	} {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := line(t, test.args...)
			if status != exitOurs || stdout != "" {
				t.Errorf("status %d, on standard output %q", status, stdout)
			}
			if !strings.Contains(stderr, test.says) {
				t.Errorf("%q does not say %q", stderr, test.says)
			}
			if lines := strings.Count(stderr, "\n"); lines > 2 {
				t.Errorf("that is a wall of %d lines:\n%s", lines, stderr)
			}
		})
	}
	if left, _ := filepath.Glob("*"); len(left) != 1 {
		t.Errorf("they left %v", left)
	}
	if hidden, _ := filepath.Glob(".meta*"); len(hidden) > 0 {
		t.Errorf("they left %v", hidden)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"--help"}, "Exit status: the task's own"},
		{[]string{"help"}, "metaservice run --artifact"},
		{[]string{"help", "serve"}, "--listen ADDRESS"},
		{[]string{"run", "--help"}, "Example:\n  metaservice run"},
		{[]string{"serve", "-h"}, "Example:\n  metaservice serve"},
		{[]string{"shell", "--help"}, "metaservice shell -- tar c"},
		{[]string{"version"}, "metaservice "},
		{[]string{"--version"}, "metaservice "},
	} {
		status, stdout, stderr := line(t, test.args...)
		if status != 0 || stderr != "" || !strings.Contains(stdout, test.says) {
			t.Errorf("%v: status %d, %q does not say %q, on standard error %q", test.args, status, stdout, test.says, stderr)
		}
		for text := range strings.Lines(stdout) {
			if len(text) > 101 {
				t.Errorf("%v: a line of %d characters: %s", test.args, len(text), text)
			}
		}
	}
}

func TestEnvironment(t *testing.T) {
	here := map[string]string{"HOME": "/root", "EMPTY": ""}
	lookup := func(name string) (string, bool) { value, ok := here[name]; return value, ok }
	got, err := environment([]string{"A=1", "B=x=y,z", "HOME", "EMPTY", "A=2", "NONE="}, lookup)
	want := map[string]string{"A": "2", "B": "x=y,z", "HOME": "/root", "EMPTY": "", "NONE": ""}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, wrong := range []string{"", "=x", "UNSET"} {
		if _, err := environment([]string{wrong}, lookup); !errors.As(err, new(usageError)) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestArtifactsOfTheCommandLine(t *testing.T) {
	for given, want := range map[string]artifact{
		"out/report.html":          {path: "out/report.html", target: "report.html"},
		"/tmp/out/":                {path: "/tmp/out/", target: "out"},
		"a/./b/../c":               {path: "a/./b/../c", target: "c"},
		"x=y":                      {path: "x", target: "y"},
		"x=some/folder/":           {path: "x", target: filepath.Join("some", "folder", "x")},
		"odd=name=here":            {path: "odd=name", target: "here"},
		`C:\out\report.html`:       {path: `C:\out\report.html`, target: "report.html"},
		`\\server\share\report.md`: {path: `\\server\share\report.md`, target: "report.md"},
		".=all":                    {path: ".", target: "all"},
		"..=all":                   {path: "..", target: "all"},
	} {
		want.given = given
		got, err := parseArtifacts([]string{given})
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%q is %+v, %v; want %+v", given, got, err, want)
		}
	}
}
