package domain

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// ShellSpec is a process that is asked for with its streams. The zero one is the guest's default shell,
// without a terminal.
type ShellSpec struct {
	Command []string // empty is the guest's default shell
	TTY     bool     // its streams are a terminal

	// What follows needs a guest that named FeatureExec, but for the size, the time-out and NoStdin, which a
	// host can see to by itself.

	Env           map[string]string // added to the guest's environment
	Dir           string            // where it starts; empty is where the guest's tasks do
	User          string            // who runs it; empty is who runs the guest's tasks
	Columns, Rows uint16            // of the terminal to begin with; 0 is 80 by 24
	// Timeout is after what time it is killed; 0 is never. Whole milliseconds are told. A guest that can't see
	// to it has its host do so: the outputs end behind what had come by then, and the report is the host's.
	Timeout time.Duration
	NoStdin bool // its standard input is empty
}

// The size of a terminal where nothing else is said.
const (
	DefaultColumns = 80
	DefaultRows    = 24
)

// Size is the terminal's size to begin with.
func (s ShellSpec) Size() (columns, rows uint16) {
	if s.Columns == 0 || s.Rows == 0 {
		return DefaultColumns, DefaultRows
	}
	return s.Columns, s.Rows
}

// NeedsExec names what of it only a guest with FeatureExec can do; empty is nothing.
func (s ShellSpec) NeedsExec() []string {
	var needs []string
	if len(s.Env) > 0 {
		needs = append(needs, "an environment")
	}
	if s.Dir != "" {
		needs = append(needs, "a folder")
	}
	if s.User != "" {
		needs = append(needs, "a user")
	}
	return needs
}

// maxShellName is the longest user of a ShellSpec, in bytes.
const maxShellName = 256

// Check tells what of it can't be: ErrInvalidAction.
func (s ShellSpec) Check() error {
	for i, arg := range s.Command {
		if err := shellText(arg); err != nil {
			return fmt.Errorf("%w: argument %d of the command %w", ErrInvalidAction, i, err)
		}
	}
	if err := (Execute{Env: s.Env}).Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidAction, err)
	}
	for what, text := range map[string]struct {
		value string
		most  int
	}{"folder": {s.Dir, MaxPath}, "user": {s.User, maxShellName}} {
		if err := shellText(text.value); err != nil {
			return fmt.Errorf("%w: the %s %s %w", ErrInvalidAction, what, Quote(text.value), err)
		}
		if len(text.value) > text.most {
			return fmt.Errorf("%w: the %s has %d bytes, the most is %d", ErrInvalidAction, what, len(text.value), text.most)
		}
	}
	if s.Timeout < 0 {
		return fmt.Errorf("%w: the time-out is %s, it must not be less than 0", ErrInvalidAction, s.Timeout)
	}
	if !s.TTY && (s.Columns != 0 || s.Rows != 0) {
		return fmt.Errorf("%w: a size of %d by %d without a terminal", ErrInvalidAction, s.Columns, s.Rows)
	}
	return nil
}

func shellText(text string) error {
	switch {
	case strings.IndexByte(text, 0) >= 0:
		return fmt.Errorf("holds a NUL byte")
	case !utf8.ValidString(text):
		return fmt.Errorf("is not UTF-8")
	}
	return nil
}

func (s ShellSpec) clone() ShellSpec {
	s.Command = slices.Clone(s.Command)
	if len(s.Command) == 0 {
		s.Command = nil // Clone makes an empty one of an empty one
	}
	s.Env = maps.Clone(s.Env)
	return s
}

// String tells how much there is, never what: %v shows no secrets.
func (s ShellSpec) String() string {
	return fmt.Sprintf("a shell with a command of %d arguments, %d variables, terminal %t", len(s.Command), len(s.Env), s.TTY)
}

// GoString is String: %#v shows no more.
func (s ShellSpec) GoString() string { return s.String() }

// LogValue shows neither the command nor the environment, which may hold secrets.
func (s ShellSpec) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int("arguments", len(s.Command)),
		slog.Bool("tty", s.TTY),
		slog.String("dir", Quote(s.Dir)),
		slog.String("user", Quote(s.User)),
		slog.Duration("timeout", s.Timeout),
	)
}
