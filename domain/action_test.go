package domain_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

// action is what an Action tells of itself, to compare.
type action struct {
	ID      domain.ActionID
	Kind    domain.Kind
	Path    string
	Command []string
	TTY     bool
	Text    string
}

func told(a domain.Action) action {
	return action{a.ID(), a.Kind(), a.Path(), a.Shell().Command, a.Shell().TTY, a.String()}
}

func TestActions(t *testing.T) {
	longest := "/" + strings.Repeat("x", domain.MaxPath-1)
	tests := map[string]struct {
		make func() (domain.Action, error)
		want action
	}{
		"none": {
			func() (domain.Action, error) { return domain.Action{}, nil },
			action{Text: "none"},
		},
		"a file": {
			func() (domain.Action, error) { return domain.GetArtifact("i1", "/tmp/x") },
			action{ID: "i1", Kind: domain.KindGetArtifact, Path: "/tmp/x", Text: `get-artifact i1 of "/tmp/x"`},
		},
		"a file with an odd name": {
			func() (domain.Action, error) { return domain.GetArtifact("i1", "C:\\a\n\x1b[31m") },
			action{ID: "i1", Kind: domain.KindGetArtifact, Path: "C:\\a\n\x1b[31m", Text: `get-artifact i1 of "C:\\a\n\x1b[31m"`},
		},
		"a folder, with the longest path": {
			func() (domain.Action, error) { return domain.ListFolder("i2", longest) },
			action{ID: "i2", Kind: domain.KindListFolder, Path: longest, Text: `list-folder i2 of "` + longest[:1024] + `…"`},
		},
		"a shell": {
			func() (domain.Action, error) {
				return domain.ExecShell("i3", domain.ShellSpec{Command: []string{"ls", "", "ünï"}, TTY: true})
			},
			action{ID: "i3", Kind: domain.KindExecShell, Command: []string{"ls", "", "ünï"}, TTY: true, Text: "exec-shell i3"},
		},
		"the guest's own shell": {
			func() (domain.Action, error) { return domain.ExecShell("i3", domain.ShellSpec{}) },
			action{ID: "i3", Kind: domain.KindExecShell, Text: "exec-shell i3"},
		},
		"an empty command is the guest's own shell too": {
			func() (domain.Action, error) { return domain.ExecShell("i3", domain.ShellSpec{Command: []string{}}) },
			action{ID: "i3", Kind: domain.KindExecShell, Text: "exec-shell i3"},
		},
		"a kill": {
			func() (domain.Action, error) { return domain.KillProcess("i4") },
			action{ID: "i4", Kind: domain.KindKillProcess, Text: "kill-process i4"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := test.make()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, told(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestActionsThatCannotBe(t *testing.T) {
	type maker func() (domain.Action, error)
	shell := func(id domain.ActionID, command ...string) maker {
		return func() (domain.Action, error) { return domain.ExecShell(id, domain.ShellSpec{Command: command}) }
	}
	tests := map[string]struct {
		make maker
		says string
	}{
		"a shell without an id":        {shell("", "ls"), "exec-shell without an id"},
		"a shell with a NUL":           {shell("i", "ls", "a\x00b"), "argument 1 of the command holds a NUL byte"},
		"a shell that is not UTF-8":    {shell("i", "ls\xff"), "argument 0 of the command is not UTF-8"},
		"a kill without an id":         {func() (domain.Action, error) { return domain.KillProcess("") }, "kill-process without an id"},
		"a shell's secret isn't shown": {shell("i", "hunter2\x00"), "argument 0"},
	}
	for kind, with := range map[string]func(domain.ActionID, string) (domain.Action, error){
		"get-artifact": domain.GetArtifact,
		"list-folder":  domain.ListFolder,
	} {
		add := func(name string, id domain.ActionID, path, says string) {
			tests[kind+" "+name] = struct {
				make maker
				says string
			}{func() (domain.Action, error) { return with(id, path) }, says}
		}
		add("without an id", "", "/x", kind+" without an id")
		add("without a path", "i", "", kind+" without a path")
		add("too long", "i", strings.Repeat("x", domain.MaxPath+1), "4097 bytes, the most is 4096")
		add("with a NUL", "i", "/a\x00b", `the path "/a\x00b" holds a NUL byte`)
		// JSON would ask for "/a\uFFFD" instead, which may be another file.
		add("not UTF-8", "i", "/a\xff", `the path "/a\xff" is not UTF-8`)
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := test.make()
			if !errors.Is(err, domain.ErrInvalidAction) {
				t.Fatalf("the error is %v", err)
			}
			if !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q does not say %q, or says too much", err, test.says)
			}
			if diff := cmp.Diff(action{Text: "none"}, told(got)); diff != "" {
				t.Errorf("beside its error it is an action:\n%s", diff)
			}
		})
	}
}

func TestActionKeepsItsCommandToItself(t *testing.T) {
	given := []string{"rm", "x"}
	a, err := domain.ExecShell("i", domain.ShellSpec{Command: given})
	if err != nil {
		t.Fatal(err)
	}
	given[1] = "/"
	got := a.Shell().Command
	got[1] = "/"
	if diff := cmp.Diff([]string{"rm", "x"}, a.Shell().Command); diff != "" {
		t.Errorf("someone else changed the command:\n%s", diff)
	}
}

func TestKinds(t *testing.T) {
	var names []string
	for i, kind := range domain.Kinds() {
		if int(kind) != i {
			t.Errorf("%s is out of order", kind)
		}
		names = append(names, kind.String())
		back, err := domain.ParseKind(kind.String())
		if err != nil || back != kind {
			t.Errorf("%s is read as %s, %v", kind, back, err)
		}
	}
	if diff := cmp.Diff([]string{"none", "get-artifact", "list-folder", "exec-shell", "kill-process", "get-folder"}, names); diff != "" {
		t.Errorf("guests know the kinds by other names:\n%s", diff)
	}
	// Kinds must have them all: the one after the last has no name.
	beyond := domain.Kind(len(domain.Kinds()))
	if want := "kind(6)"; beyond.String() != want {
		t.Errorf("the kind after the last is %s, not %s", beyond, want)
	}
	for _, name := range []string{"", "None", "get-artifact ", "put-artifact", beyond.String(), "\x1b]0;x\a"} {
		kind, err := domain.ParseKind(name)
		if !errors.Is(err, domain.ErrUnknownKind) || kind != domain.KindNone {
			t.Errorf("%q is read as %s, %v", name, kind, err)
			continue
		}
		if !strings.HasSuffix(err.Error(), domain.Quote(name)) || slices.ContainsFunc([]rune(err.Error()), isControl) {
			t.Errorf("the error %q does not quote the name", err)
		}
	}
}
