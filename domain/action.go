package domain

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode/utf8"
)

// ActionID names one attempt at one action. It is a secret between the host and the guest that was
// handed the action, and it is used up by its first reply.
type ActionID string

// Kind is what an action asks for. The zero Kind is KindNone.
type Kind uint8

// The kinds of version 1 of the protocol.
const (
	KindNone Kind = iota
	KindGetArtifact
	KindListFolder
	KindExecShell
	KindKillProcess
)

// KindGetFolder is for guests that named FeatureTar.
const KindGetFolder Kind = KindKillProcess + 1

var kindNames = [...]string{
	KindNone:        "none",
	KindGetArtifact: "get-artifact",
	KindListFolder:  "list-folder",
	KindExecShell:   "exec-shell",
	KindKillProcess: "kill-process",
	KindGetFolder:   "get-folder",
}

// Kinds returns every kind, in the order of the protocol's table.
func Kinds() []Kind {
	return []Kind{KindNone, KindGetArtifact, KindListFolder, KindExecShell, KindKillProcess, KindGetFolder}
}

// String is the kind's name on the wire.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind is the inverse of String. A name it doesn't know is ErrUnknownKind: a guest logs such an
// action and goes on, since a newer host may know more than it does.
func ParseKind(name string) (Kind, error) {
	if i := slices.Index(kindNames[:], name); i >= 0 {
		return Kind(i), nil
	}
	return KindNone, fmt.Errorf("%w: %s", ErrUnknownKind, Quote(name))
}

// MaxPath is the longest path, in bytes, that an action may name: PATH_MAX of Linux.
const MaxPath = 4096

var (
	// ErrUnknownKind is an action of a kind that this version doesn't know.
	ErrUnknownKind = errors.New("unknown kind of action")
	// ErrInvalidAction is an action that can't be built from what was given.
	ErrInvalidAction = errors.New("invalid action")
)

// Action is one thing that the host asks of the guest. It is valid from birth: the constructors
// check, and nothing changes it afterwards. The zero Action is of KindNone: there is nothing to do.
//
// Its text is UTF-8. JSON has no way to carry other bytes: it would put U+FFFD in their place, and so
// ask for another file than the one that was named.
type Action struct {
	id    ActionID
	kind  Kind
	path  string
	shell ShellSpec
}

// GetArtifact asks for the content of the regular file at path, in the guest's own syntax.
func GetArtifact(id ActionID, path string) (Action, error) {
	return pathAction(KindGetArtifact, id, path)
}

// ListFolder asks for the names of all regular files below path, in the guest's own syntax.
func ListFolder(id ActionID, path string) (Action, error) {
	return pathAction(KindListFolder, id, path)
}

// GetFolder asks for all regular files below path at once, in the guest's own syntax.
func GetFolder(id ActionID, path string) (Action, error) {
	return pathAction(KindGetFolder, id, path)
}

// ExecShell asks for a process with its streams on a websocket. An empty command means the guest's
// own default shell.
func ExecShell(id ActionID, spec ShellSpec) (Action, error) {
	if err := checkID(KindExecShell, id); err != nil {
		return Action{}, err
	}
	if err := spec.Check(); err != nil {
		return Action{}, err
	}
	return Action{id: id, kind: KindExecShell, shell: spec.clone()}, nil
}

// KillProcess asks the guest to end the task's whole process tree.
func KillProcess(id ActionID) (Action, error) {
	if err := checkID(KindKillProcess, id); err != nil {
		return Action{}, err
	}
	return Action{id: id, kind: KindKillProcess}, nil
}

func pathAction(kind Kind, id ActionID, path string) (Action, error) {
	if err := checkID(kind, id); err != nil {
		return Action{}, err
	}
	switch {
	case path == "":
		return Action{}, fmt.Errorf("%w: %s without a path", ErrInvalidAction, kind)
	case len(path) > MaxPath:
		return Action{}, fmt.Errorf("%w: %s with a path of %d bytes, the most is %d", ErrInvalidAction, kind, len(path), MaxPath)
	case strings.IndexByte(path, 0) >= 0:
		return Action{}, fmt.Errorf("%w: the path %s holds a NUL byte", ErrInvalidAction, Quote(path))
	case !utf8.ValidString(path):
		return Action{}, fmt.Errorf("%w: the path %s is not UTF-8", ErrInvalidAction, Quote(path))
	}
	return Action{id: id, kind: kind, path: path}, nil
}

func checkID(kind Kind, id ActionID) error {
	if id == "" {
		return fmt.Errorf("%w: %s without an id", ErrInvalidAction, kind)
	}
	return nil
}

// ID is empty for KindNone alone.
func (a Action) ID() ActionID { return a.id }

// Kind is what is asked for.
func (a Action) Kind() Kind { return a.kind }

// Path is the file or folder that is asked for; empty for the other kinds.
func (a Action) Path() string { return a.path }

// Shell is a copy of what an exec-shell asks for; zero for the other kinds.
func (a Action) Shell() ShellSpec { return a.shell.clone() }

// String names the action for errors and logs: kind and id, and the path where it has one.
func (a Action) String() string {
	switch {
	case a.kind == KindNone:
		return a.kind.String()
	case a.path != "":
		return fmt.Sprintf("%s %s of %s", a.kind, a.id, Quote(a.path))
	}
	return fmt.Sprintf("%s %s", a.kind, a.id)
}

// LogValue is String, made only where a log wants it.
func (a Action) LogValue() slog.Value { return slog.StringValue(a.String()) }
