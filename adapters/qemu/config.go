package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/adapters/vmnet"
	"github.com/hexworker/metaservice/ports"
)

// Defaults of a Config.
const (
	DefaultProgram      = "qemu-system-x86_64"
	DefaultImageProgram = "qemu-img"
	DefaultGrace        = 2 * time.Second
	DefaultConsoleBytes = 16 << 20
)

// Limits of what a guest may be given, whatever a Config says.
const (
	MinMemory = int64(vmimage.MinMemory)
	MaxCPUs   = vmimage.MaxCPUs
)

// Config is what a Machine needs. Image and Serve must be given.
type Config struct {
	// Image is what guests boot from, as vmimage.Read found it.
	Image vmimage.Image
	// Serve serves a handler until ctx ends, which is no error, or the listener fails, and closes the
	// listener.
	Serve func(ctx context.Context, listener net.Listener, handler http.Handler) error

	// What a guest gets whose task doesn't ask for anything else; zero is what the image says.
	Memory int64
	CPUs   int
	NAT    bool
	// What a task may ask for, at most; zero is what a guest gets anyway.
	MaxMemory int64
	MaxCPUs   int
	AllowNAT  bool
	// World is how guests that are let out reach the world; the zero value is the host's own network.
	World vmnet.NAT

	// Program is QEMU: a path, or a name on PATH; empty is DefaultProgram. A script must end in exec QEMU:
	// otherwise a host that is killed by SIGKILL takes only the script along.
	Program      string
	ImageProgram string // qemu-img, which only disks need; empty is DefaultImageProgram
	Acceleration Acceleration
	// Folder is where QEMU keeps what guests write to their disks, in files without a name; empty is the
	// system's for temporary files.
	Folder string
	// Console opens where one guest's console goes, and which is closed at its end; nil is nowhere. It
	// gets ConsoleBytes at most: 0 is DefaultConsoleBytes.
	Console      func() (io.WriteCloser, error)
	ConsoleBytes int64
	// Logger is told of starts and stops; nil is nobody.
	Logger *slog.Logger
	// Grace is for QEMU to end by itself when it is told to; 0 is DefaultGrace.
	Grace time.Duration
}

// Machine is a ports.MachineWithOptions and a ports.MachineWithToken.
type Machine struct {
	config Config
	host   host
	speed  sync.Once // for telling of the acceleration

	mu    sync.Mutex
	sound disk // guarded by mu: what was found to be so
}

var (
	_ ports.MachineWithOptions = (*Machine)(nil)
	_ ports.MachineWithToken   = (*Machine)(nil)
)

// New checks the config, and starts nothing. Whether the programs and the image's files are there is seen
// by Boot.
func New(config Config) (*Machine, error) {
	config.fillIn()
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("qemu machine: %w", err)
	}
	return &Machine{config: config, host: realHost{}}, nil
}

// fillIn sets what was left out.
func (c *Config) fillIn() {
	for into, value := range map[*string]string{
		&c.Program: DefaultProgram, &c.ImageProgram: DefaultImageProgram, &c.Folder: os.TempDir(),
	} {
		if *into == "" {
			*into = value
		}
	}
	if c.Acceleration == "" {
		c.Acceleration = Auto
	}
	if c.Memory == 0 {
		c.Memory = int64(c.Image.Memory)
	}
	if c.CPUs == 0 {
		c.CPUs = c.Image.CPUs
	}
	c.MaxMemory = max(c.MaxMemory, c.Memory)
	c.MaxCPUs = max(c.MaxCPUs, c.CPUs)
	c.AllowNAT = c.AllowNAT || c.NAT
	if c.ConsoleBytes == 0 {
		c.ConsoleBytes = DefaultConsoleBytes
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
}

// check names all that can't be.
func (c *Config) check() error {
	if problem := platformProblem(); problem != nil {
		return problem
	}
	var wrong []error
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if c.Serve == nil {
		refuse("Serve is missing")
	}
	if c.Image.Dir == "" {
		refuse("Image is missing: vmimage.Read reads one")
	} else if err := c.Image.Check(); err != nil {
		wrong = append(wrong, err)
	}
	if c.Memory < MinMemory {
		refuse("Memory is %d bytes, it must be %d at least", c.Memory, MinMemory)
	}
	if c.CPUs < 1 || c.MaxCPUs > MaxCPUs {
		refuse("there are %d CPUs, and %d at most for a task: it must be from 1 to %d", c.CPUs, c.MaxCPUs, MaxCPUs)
	}
	if c.Grace < 0 || c.ConsoleBytes < 0 {
		refuse("Grace and ConsoleBytes can't be negative")
	}
	switch c.Acceleration {
	case Auto, KVM, TCG:
	default:
		refuse("Acceleration is %q, it must be auto, kvm or tcg", c.Acceleration)
	}
	// QEMU takes names that aren't absolute for something else than a file where they look like it.
	for _, folder := range []*string{&c.Image.Dir, &c.Folder} {
		full, err := filepath.Abs(*folder)
		if err != nil {
			return err
		}
		*folder = full
	}
	return errors.Join(wrong...)
}
