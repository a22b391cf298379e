package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

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
	MinMemory = 64 << 20
	MaxCPUs   = 64
)

// Config is what a Machine needs. Image, Card, Network and Serve must be given.
type Config struct {
	Image Image
	// Card is the guest's network card.
	Card Card
	// Network begins the network at the other end of a guest's card. conn carries its frames, each after
	// its length in four bytes; it belongs to the network, after an error too. nat lets the guest out.
	Network func(conn net.Conn, nat bool) (Network, error)
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

	Program      string // QEMU: a path, or a name on PATH; empty is DefaultProgram
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

// Image is what guests boot from: adapters/vmimage reads it from machine.json.
type Image struct {
	Kernel     string
	Initrd     string // none: the kernel mounts the disk by itself
	Disk       string // none: everything is in the initramfs
	DiskFormat string // raw or qcow2
	Append     string // more of the kernel's command line
	Memory     int64
	CPUs       int
}

// Card is a guest's network card and what the guest has to know of its network.
type Card struct {
	MAC     net.HardwareAddr
	MTU     int
	Address netip.Prefix
	Gateway netip.Addr // which resolves names, too, where the guest is let out
}

// Network is the network of one guest.
type Network interface {
	// Listener takes the guest's connections to the metadata address.
	Listener() net.Listener
	// Done is closed when the network can't go on, and Err tells why.
	Done() <-chan struct{}
	Err() error
	// Close ends it, and returns when nothing is left of it.
	Close() error
}

// Machine is a ports.MachineWithOptions.
type Machine struct {
	config Config
	host   host
	speed  sync.Once // for telling of the acceleration

	mu    sync.Mutex
	sound string // guarded by mu: the disk that was found to be so, as it was then
}

var _ ports.MachineWithOptions = (*Machine)(nil)

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
		c.Memory = c.Image.Memory
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
	if c.Network == nil {
		refuse("Network is missing")
	}
	if c.Serve == nil {
		refuse("Serve is missing")
	}
	if c.Image.Kernel == "" {
		refuse("Image.Kernel is missing")
	}
	if c.Image.Disk != "" && c.Image.DiskFormat != formatRaw && c.Image.DiskFormat != formatQCOW2 {
		refuse("Image.DiskFormat is %q, it must be raw or qcow2", c.Image.DiskFormat)
	}
	if strings.ContainsFunc(c.Image.Append, func(r rune) bool { return r < ' ' }) {
		refuse("Image.Append is %q, it must be one line", c.Image.Append)
	}
	if len(c.Card.MAC) != 6 || c.Card.MTU < 68 || !c.Card.Address.IsValid() || !c.Card.Gateway.IsValid() {
		refuse("Card is incomplete: it needs a MAC of six bytes, an MTU, an Address and a Gateway")
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
	for _, file := range []*string{&c.Image.Kernel, &c.Image.Initrd, &c.Image.Disk, &c.Folder} {
		if *file == "" {
			continue
		}
		full, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		*file = full // QEMU takes some that begin otherwise for something else than a file
	}
	return errors.Join(wrong...)
}
