package domain_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

func TestShellSpecs(t *testing.T) {
	for name, test := range map[string]struct {
		spec domain.ShellSpec
		says string // empty: it can be
	}{
		"the default shell":         {domain.ShellSpec{}, ""},
		"all of it":                 {full(), ""},
		"an empty argument":         {domain.ShellSpec{Command: []string{"a", ""}}, ""},
		"a size without a terminal": {domain.ShellSpec{Columns: 1}, "1 by 0 without a terminal"},
		"NUL in an argument":        {domain.ShellSpec{Command: []string{"a", "b\x00"}}, "argument 1 of the command holds a NUL byte"},
		"no text in an argument":    {domain.ShellSpec{Command: []string{"\xff"}}, "argument 0 of the command is not UTF-8"},
		"NUL in a folder":           {domain.ShellSpec{Dir: "a\x00"}, `the folder "a\x00" holds a NUL byte`},
		"no text in a folder":       {domain.ShellSpec{Dir: "\xff"}, `the folder "\xff" is not UTF-8`},
		"the longest folder":        {domain.ShellSpec{Dir: strings.Repeat("x", domain.MaxPath)}, ""},
		"a folder too long":         {domain.ShellSpec{Dir: strings.Repeat("x", domain.MaxPath+1)}, "the folder has 4097 bytes, the most is 4096"},
		"NUL in a user":             {domain.ShellSpec{User: "\x00"}, "the user"},
		"the longest user":          {domain.ShellSpec{User: strings.Repeat("x", 256)}, ""},
		"a user too long":           {domain.ShellSpec{User: strings.Repeat("x", 257)}, "the user has 257 bytes, the most is 256"},
		"a variable without a name": {domain.ShellSpec{Env: map[string]string{"": "x"}}, "name"},
		"a variable with NUL":       {domain.ShellSpec{Env: map[string]string{"A": "\x00"}}, "NUL"},
		"less time than none":       {domain.ShellSpec{Timeout: -1}, "-1ns"},
	} {
		err := test.spec.Check()
		_, built := domain.ExecShell("1", test.spec)
		if (err == nil) != (built == nil) {
			t.Errorf("%s: Check says %v, ExecShell %v", name, err, built)
		}
		switch {
		case test.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.says != "" && (!errors.Is(err, domain.ErrInvalidAction) || !strings.Contains(err.Error(), test.says)):
			t.Errorf("%s: %v doesn't say %q", name, err, test.says)
		}
	}
}

func full() domain.ShellSpec {
	return domain.ShellSpec{
		Command: []string{"sh", "-c", "secret"}, TTY: true, Env: map[string]string{"TOKEN": "secret"},
		Dir: "/tmp", User: "nobody", Columns: 132, Rows: 50, Timeout: time.Minute, NoStdin: true,
	}
}

func TestWhatAShellNeedsExecFor(t *testing.T) {
	for _, test := range []struct {
		spec domain.ShellSpec
		want []string
	}{
		{domain.ShellSpec{}, nil},
		{domain.ShellSpec{Command: []string{"a"}, TTY: true, Columns: 1, Rows: 1, Timeout: 1, NoStdin: true}, nil},
		{domain.ShellSpec{Env: map[string]string{}}, nil},
		{domain.ShellSpec{Env: map[string]string{"A": ""}}, []string{"an environment"}},
		{domain.ShellSpec{Dir: "/"}, []string{"a folder"}},
		{domain.ShellSpec{User: "root"}, []string{"a user"}},
		{full(), []string{"an environment", "a folder", "a user"}},
	} {
		if diff := cmp.Diff(test.want, test.spec.NeedsExec()); diff != "" {
			t.Errorf("%+v: -want +got:\n%s", test.spec, diff)
		}
	}
}

func TestTheSizeToBeginWith(t *testing.T) {
	for spec, want := range map[*domain.ShellSpec][2]uint16{
		{TTY: true}:                         {80, 24},
		{TTY: true, Columns: 132}:           {80, 24}, // half a size is none
		{TTY: true, Rows: 50}:               {80, 24},
		{TTY: true, Columns: 132, Rows: 50}: {132, 50},
	} {
		if columns, rows := spec.Size(); [2]uint16{columns, rows} != want {
			t.Errorf("%+v: %d by %d", spec, columns, rows)
		}
	}
}

// An action is valid from birth: whoever keeps the spec, or gets it back, can't change it.
func TestAShellsActionIsACopy(t *testing.T) {
	given := full()
	action, err := domain.ExecShell("1", given)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(spec domain.ShellSpec) {
		spec.Command[0] = "\x00"
		spec.Env["TOKEN"] = "\x00"
	}
	spoil(given)
	spoil(action.Shell())
	if diff := cmp.Diff(full(), action.Shell()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	empty, err := domain.ExecShell("1", domain.ShellSpec{Command: []string{}})
	if err != nil || empty.Shell().Command != nil {
		t.Errorf("an empty command is %#v, %v", empty.Shell().Command, err)
	}
}

func TestAShellsSecretsStayOutOfLogs(t *testing.T) {
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("shell", "spec", full())
	if strings.Contains(log.String(), "secret") || strings.Contains(log.String(), "TOKEN") || !strings.Contains(log.String(), "spec.arguments=3") {
		t.Error(log.String())
	}
}
