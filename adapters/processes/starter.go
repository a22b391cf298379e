package processes

import (
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Mode is how trees are held. It matters on Linux alone.
type Mode uint8

// The modes.
const (
	ModeAuto   Mode = iota // a cgroup where one can be made, else a shim
	ModeCgroup             // a cgroup; a command fails to start where none can be made
	ModeShim               // a shim: for trees that must not outlive us
)

var modeNames = [...]string{ModeAuto: "auto", ModeCgroup: "cgroup", ModeShim: "shim"}

// String is the mode's name.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// Config says how trees are held.
type Config struct {
	// Mode is the way to hold a tree.
	Mode Mode
	// Shim is the command line under which this program calls ShimMain: a path that can be executed as
	// it is, and arguments. ModeAuto and ModeShim need it on Linux.
	Shim []string
	// Logger is told, once, why ModeAuto can't use cgroups; nil is nobody.
	Logger *slog.Logger
}

// Starter is a ports.Processes and a ports.Shells.
type Starter struct {
	config   Config
	noCgroup atomic.Bool // ModeAuto has seen that the shim works where a cgroup doesn't
}

var (
	_ ports.Processes = (*Starter)(nil)
	_ ports.Shells    = (*Starter)(nil)
)

// New checks the config, and starts nothing.
func New(config Config) (*Starter, error) {
	if int(config.Mode) >= len(modeNames) {
		return nil, fmt.Errorf("processes: there is no %s", config.Mode)
	}
	if needsShim && config.Mode != ModeCgroup && (len(config.Shim) == 0 || config.Shim[0] == "") {
		return nil, fmt.Errorf("processes: mode %s needs the command line of a shim: give one that calls ShimMain", config.Mode)
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Starter{config: config}, nil
}

// Start implements ports.Processes. Whatever goes wrong is a *ports.StartError.
func (s *Starter) Start(spec ports.ProcessSpec) (ports.Process, error) {
	cmd, err := resolve(spec)
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, startError(domain.ExitNotExecutable, "open the empty input of command %s: %w", domain.Quote(cmd.path), err)
	}
	defer null.Close()
	out, child, err := openStream(spec.Terminal, cmd.credential)
	if err != nil {
		return nil, cmd.failed(err)
	}
	// The tree's writing end must not stay open here, or its output would never end.
	defer child.Close()
	p := newProcess(out)
	p.tree, err = s.hold(cmd, standard{in: null, out: child, err: child}, p.finish)
	if err != nil {
		_ = p.closeStreams()
		return nil, err
	}
	return p, nil
}
