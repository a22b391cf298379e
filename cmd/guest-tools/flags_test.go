package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/wire"
)

func TestCommandLines(t *testing.T) {
	run := invocation{command: commandRun, host: wire.DefaultHost}
	with := func(change func(*invocation)) invocation {
		in := run
		change(&in)
		return in
	}
	post := with(func(in *invocation) { in.command, in.file = commandPostLog, "x" })
	for line, want := range map[string]invocation{
		"":                          run,
		"run":                       run,
		"--host h:1 run":            with(func(in *invocation) { in.host = "h:1" }),
		"run --host h:1":            with(func(in *invocation) { in.host = "h:1" }),
		"-host=h:1":                 with(func(in *invocation) { in.host = "h:1" }),
		"--config c.yml --host h:1": with(func(in *invocation) { in.config, in.host = "c.yml", "h:1" }),
		"post-log x":                post,
		"post-log -- x":             post,
		"post-log -":                with(func(in *invocation) { in.command, in.file = commandPostLog, "-" }),
		"--host h:1 post-log x":     with(func(in *invocation) { in.command, in.host, in.file = commandPostLog, "h:1", "x" }),
		"post-log --host h:1 x":     with(func(in *invocation) { in.command, in.host, in.file = commandPostLog, "h:1", "x" }),
		"--token-file t run":        with(func(in *invocation) { in.token = "t" }),
		"post-log --token-file t x": with(func(in *invocation) { in.command, in.token, in.file = commandPostLog, "t", "x" }),
		"--help":                    {command: commandHelp},
		"post-log -h":               {command: commandHelp},
		"run --version":             {command: commandVersion},
	} {
		got, err := parse(strings.Fields(line))
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", line, got, err, want)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for line, want := range map[string]string{
		"--bogus":                   "-bogus",
		"bogus":                     `no command "bogus"`,
		"run more":                  `"more"`,
		"run run":                   `"run"`,
		"--host":                    "needs an argument",
		"--host=":                   "--host is empty",
		"--token-file=":             "--token-file is empty",
		"--token-file":              "needs an argument",
		"--host https://h":          "only scheme is http",
		"post-log":                  "one file",
		"post-log a b":              "one file",
		"post-log --config c.yml a": "needs no --config",
		"post-log --host h:x a":     `the port "x"`,
	} {
		var stdout, stderr bytes.Buffer
		code := program{args: strings.Fields(line), stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}.main()
		if code != exitUsage || stdout.Len() > 0 || !strings.Contains(stderr.String(), want) || !strings.Contains(stderr.String(), usage) {
			t.Errorf("%q: exit code %d and\n%s\nwant %d, the usage, and %q", line, code, stderr.String(), exitUsage, want)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for line, want := range map[string]string{"--help": usage, "--version": "guest-tools " + buildVersion() + "\n"} {
		var stdout, stderr bytes.Buffer
		code := program{args: []string{line}, stdout: &stdout, stderr: &stderr}.main()
		if code != exitOK || stdout.String() != want || stderr.Len() > 0 {
			t.Errorf("%s: exit code %d, %q, %q", line, code, stdout.String(), stderr.String())
		}
	}
}

func TestConfigsThatCantBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(file, []byte("entrypiont: [a]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: `no key "entrypiont"`, file + ".missing": "can't be opened"} {
		var stderr bytes.Buffer
		code := program{args: []string{"--config", path}, stderr: &stderr}.main()
		if code != exitFailure || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: exit code %d, %q; want %d and %q", path, code, stderr.String(), exitFailure, want)
		}
	}
}
