package guestconfig_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/adapters/guestconfig"
)

func TestAllKeys(t *testing.T) {
	got, err := guestconfig.Parse([]byte(`
# for the nightly image
entrypoint: [/bin/sh, "-c"]
env:
  LANG: C.UTF-8
  EMPTY: ""
  PORT: "8080"
shell: &shell
  - /bin/bash
  - -l
user: 1000
workdir: /home/worker
tty: false
`))
	want := guestconfig.Config{
		Entrypoint: []string{"/bin/sh", "-c"},
		Env:        map[string]string{"LANG": "C.UTF-8", "EMPTY": "", "PORT": "8080"},
		Shell:      []string{"/bin/bash", "-l"},
		User:       "1000",
		Workdir:    "/home/worker",
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "{}", "null", "env:\nshell:\nentrypoint:\nuser:\nworkdir:\n"} {
		got, err := guestconfig.Parse([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(guestconfig.Default(), got); diff != "" {
			t.Errorf("%q is not the default:\n%s", text, diff)
		}
	}
	if !guestconfig.Default().TTY {
		t.Error("a task must have a terminal unless the file says no")
	}
}

func TestUsers(t *testing.T) {
	for text, want := range map[string]string{"worker": "worker", "0": "0", `"1000"`: "1000", "65534": "65534"} {
		got, err := guestconfig.Parse([]byte("user: " + text))
		if err != nil || got.User != want {
			t.Errorf("user: %s is %q, %v; want %q", text, got.User, err, want)
		}
	}
}

// Every error names the line, the key, and what would be right.
func TestErrors(t *testing.T) {
	for text, want := range map[string][]string{
		"tty: true\nentrypiont: [x]":        {"line 2", `no key "entrypiont"`, "entrypoint, env, shell, user, workdir, tty"},
		"<<: {tty: true}":                   {"line 1"},
		"workdir: /a\nworkdir: /b":          {"line 2", "workdir", "twice", "line 1"},
		"env:\n  A: x\n  A: y":              {"line 3", `"A"`, "twice", "line 2"},
		"entrypoint: /bin/sh":               {"line 1", "entrypoint must be a list of strings", `the string "/bin/sh"`},
		"entrypoint: [a, 1]":                {"entrypoint[1] must be a string", `"1"`, "the number 1"},
		"entrypoint: [a, ~]":                {"entrypoint[1] must be a string", "empty"},
		"shell: {a: b}":                     {"shell must be a list", "a mapping"},
		"shell: [[a]]":                      {"shell[0] must be a string", "a list"},
		"env: [A=b]":                        {"env must be a mapping", "a list"},
		"env:\n  PORT: 8080":                {"line 2", "env.PORT must be a string", `"8080"`},
		"env: {ON: yes, OFF: false}":        {"env.OFF must be a string", "the truth value false"},
		"env: {A: }":                        {"env.A must be a string", `""`},
		"env: {A=B: x}":                     {"env", `"A=B"`},
		"env: {\"\": x}":                    {"env", "without a name"},
		"env: {1: x}":                       {"a key of env must be a string"},
		"env: {A: \"a\\0b\"}":               {"env.A", "NUL"},
		"entrypoint: [\"a\\0b\"]":           {"entrypoint[0]", "NUL"},
		"user: 0x10":                        {"user must be a name, or a decimal number", "0x10"},
		"user: -1":                          {"user must be a name, or a decimal number", "-1"},
		"user: 1.5":                         {"user must be a string"},
		"user: [root]":                      {"user must be a string", "a list"},
		"workdir: 7":                        {"workdir must be a string", "the number 7"},
		"tty: maybe":                        {"tty must be true or false", `"maybe"`},
		"tty: 1":                            {"tty must be true or false", "the number 1"},
		"tty:":                              {"tty must be true or false", "empty"},
		"- tty":                             {"line 1", "the file must be a mapping", "a list"},
		"just text":                         {"the file must be a mapping"},
		"tty: true\n---\ntty: false":        {"more than one YAML document"},
		"a: [":                              {"no YAML", "line 1"},
		"env: &e\n  A: x\nshell: [*e]":      {"shell[0] must be a string", "a mapping"},
		"env: &e\n  A: x\nuser: *e":         {"user must be a string", "a mapping"},
		"\x1b[31m: x":                       {"no YAML"},
		"\"\\e[31m\": x":                    {`no key "\x1b[31m"`},
		"tty: !!binary \"AA==\"":            {"tty must be true or false", "!!binary"},
		"workdir: 2001-01-01":               {"workdir must be a string", "2001-01-01"},
		"env: &e\n  A: x\n  <<: *e\n":       {"env"},
		"entrypoint: &l [*l]":               {"line 1"},
		"workdir: /a\nenv: {}\nenv: {A: b}": {"line 3", "twice"},
	} {
		_, err := guestconfig.Parse([]byte(text))
		if err == nil {
			t.Errorf("%q was taken", text)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: the error %q doesn't say %q", text, err, part)
			}
		}
	}
}

func TestFiles(t *testing.T) {
	folder := t.TempDir()
	_, err := guestconfig.Read(filepath.Join(folder, "missing.yml"))
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, guestconfig.ErrInvalidConfig) || !strings.Contains(err.Error(), "missing.yml") {
		t.Errorf("a file that isn't there: %v", err)
	}
	large := filepath.Join(folder, "large.yml")
	if err := os.WriteFile(large, []byte(strings.Repeat("# pages of it\n", 100_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := guestconfig.Read(large); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("a file that is too large: %v", err)
	}
	if _, err := guestconfig.Read("/dev/zero"); err == nil {
		t.Error("a file without an end was taken")
	}
	small := filepath.Join(folder, "small.yml")
	if err := os.WriteFile(small, []byte("tty: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := guestconfig.Read(small); err == nil || !strings.Contains(err.Error(), "small.yml: line 1: tty") {
		t.Errorf("an error doesn't name the file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("entrypoint: [a]\nenv: {A: b}\nuser: 1\ntty: no\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("!%1B"))            // a tag's escapes
	f.Add([]byte(`tty: !!int "\e"`)) // a value's
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := guestconfig.Parse(data); err != nil && strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("%q: the error holds the file's control characters: %q", data, err)
		}
	})
}
