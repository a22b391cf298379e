package processmachine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// DefaultGrace is how long a guest that is stopped may take to end its task and itself.
const DefaultGrace = 7 * time.Second

// maxSocketPath is the longest path of a socket: 104 bytes with the NUL on macOS, 108 on Linux.
const maxSocketPath = 103

// Config is what a Machine needs.
type Config struct {
	// GuestTools is the program: a path, or a name to look up on the host's PATH.
	GuestTools string
	// Processes holds guest-tools and all that comes of them.
	Processes ports.Processes
	// Serve serves a handler until ctx ends, which is no error, or the listener fails, and closes the
	// listener.
	Serve func(ctx context.Context, listener net.Listener, handler http.Handler) error
	// Folder is where each guest gets a folder of its own; empty is the system's for temporary files.
	Folder string
	// Env is added to the guest's environment, NAME=VALUE; it may replace what is there.
	Env []string
	// GuestConfig is the text of guest-tools' configuration file; empty is none.
	GuestConfig string
	// Owner is whom guest-tools run the task as, where GuestConfig has them do so: the task's folders are
	// then that user's. Nobody but root can give folders away, so otherwise they stay the host's own.
	Owner *Owner
	// Output takes what guest-tools themselves have to say, without blocking; nil drops it. Guests that
	// run at the same time write at the same time.
	Output io.Writer
	// Logger is told of starts and stops; nil is nobody.
	Logger *slog.Logger
	// Grace is for a stopped guest to end by itself; 0 is DefaultGrace.
	Grace time.Duration
}

// Owner is a user of the host, by numbers.
type Owner struct{ UID, GID int }

// Machine is a ports.Machine.
type Machine struct{ config Config }

var _ ports.MachineWithToken = (*Machine)(nil)

// HandsTokenOver implements ports.MachineWithToken: guest-tools get it in a file for their own user.
func (m *Machine) HandsTokenOver() {}

// New checks the config, and starts nothing. Whether guest-tools are there is seen by Boot.
func New(config Config) (*Machine, error) {
	switch {
	case config.GuestTools == "":
		return nil, errors.New("process machine: GuestTools is missing: give the path of the guest-tools program")
	case config.Processes == nil:
		return nil, errors.New("process machine: Processes is missing")
	case config.Serve == nil:
		return nil, errors.New("process machine: Serve is missing")
	case config.Grace < 0:
		return nil, fmt.Errorf("process machine: the Grace is %s, it can't be negative", config.Grace)
	}
	if config.Folder == "" {
		config.Folder = os.TempDir()
	}
	if config.Output == nil {
		config.Output = io.Discard
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Grace == 0 {
		config.Grace = DefaultGrace
	}
	config.Env = slices.Clone(config.Env)
	return &Machine{config: config}, nil
}

// Boot implements ports.Machine.
func (m *Machine) Boot(ctx context.Context, options ports.BootOptions) (ports.Guest, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := ports.NoMachineOptions(options.Options); err != nil {
		return nil, err
	}
	tools, err := m.findTools()
	if err != nil {
		return nil, err
	}
	home, err := m.makeHome(options.Token)
	if err != nil {
		return nil, err
	}
	listener, err := listen(ctx, home.socket())
	if err != nil {
		return nil, errors.Join(err, home.remove())
	}
	process, err := m.config.Processes.Start(ports.ProcessSpec{
		Command: m.command(tools, home, options.Token != ""),
		Env:     m.environment(home),
		Dir:     home.work(),
	})
	if err != nil {
		err = fmt.Errorf("guest-tools %s can't be started: %w", domain.Quote(tools), err)
		return nil, errors.Join(err, listener.Close(), home.remove())
	}
	g := newGuest(m.config, home, process, tools)
	g.begin(listener, options.Handler)
	if ctx.Err() != nil {
		return nil, errors.Join(context.Cause(ctx), g.Stop(ctx))
	}
	m.config.Logger.Debug("guest started as a process, without isolation", slog.String("folder", string(home)))
	return g, nil
}

// findTools makes the path of guest-tools absolute: they start in another folder than ours.
func (m *Machine) findTools() (string, error) {
	path, err := exec.LookPath(m.config.GuestTools)
	if err == nil || errors.Is(err, exec.ErrDot) {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("guest-tools can't be used: %w; build them (go build ./cmd/guest-tools) and give the path of the program", err)
	}
	return path, nil
}

func (m *Machine) command(tools string, home home, token bool) []string {
	command := []string{tools, "run", "--host", "unix:" + home.socket()}
	if token {
		command = append(command, "--token-file", home.token())
	}
	if m.config.GuestConfig != "" {
		command = append(command, "--config", home.config())
	}
	return command
}

// hostsOwn are the variables that a guest gets from its host: none of them holds a secret.
var hostsOwn = []string{"PATH", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "SYSTEMROOT"}

func (m *Machine) environment(home home) []string {
	var env []string
	for _, name := range hostsOwn {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	env = append(env, "HOME="+home.work(), "TMPDIR="+home.tmp())
	return append(env, m.config.Env...)
}

// home is a guest's folder.
type home string

func (h home) work() string   { return filepath.Join(string(h), "work") }
func (h home) tmp() string    { return filepath.Join(string(h), "tmp") }
func (h home) host() string   { return filepath.Join(string(h), "host") } // which the task's user can't enter
func (h home) socket() string { return filepath.Join(h.host(), "sock") }
func (h home) token() string  { return filepath.Join(h.host(), "token") }
func (h home) config() string { return filepath.Join(string(h), "guest-tools.yml") }

func (m *Machine) makeHome(token string) (home, error) {
	folder, err := filepath.Abs(m.config.Folder)
	if err != nil {
		return "", fmt.Errorf("the folder for guests can't be used: %w", err)
	}
	made, err := os.MkdirTemp(folder, "metaservice-") // which nobody else may enter
	if err != nil {
		return "", fmt.Errorf("a guest's folder can't be made in %q; it must be there and be writable: %w", folder, err)
	}
	h := home(made)
	if len(h.socket()) > maxSocketPath {
		return "", errors.Join(fmt.Errorf("the socket's path %q has %d bytes, the most is %d: set TMPDIR, or the machine's folder, to a shorter path",
			h.socket(), len(h.socket()), maxSocketPath), h.remove())
	}
	err = errors.Join(os.Mkdir(h.host(), 0o700), os.Mkdir(h.work(), 0o700), os.Mkdir(h.tmp(), 0o700))
	if err == nil && m.config.Owner != nil && os.Geteuid() == 0 {
		err = h.give(*m.config.Owner)
	}
	if err == nil && token != "" {
		err = os.WriteFile(h.token(), []byte(token+"\n"), 0o600)
	}
	if err == nil && m.config.GuestConfig != "" {
		err = os.WriteFile(h.config(), []byte(m.config.GuestConfig), 0o600)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("a guest's folder can't be filled: %w", err), h.remove())
	}
	return h, nil
}

// give makes the task's folders another user's, who must get through ours to them.
func (h home) give(to Owner) error {
	return errors.Join(
		os.Chmod(string(h), 0o711),
		os.Lchown(h.work(), to.UID, to.GID),
		os.Lchown(h.tmp(), to.UID, to.GID),
	)
}

// remove removes the folder, with what a task may have put there that its owner must not write to, such
// as the folders in Go's module cache.
func (h home) remove() error {
	if os.RemoveAll(string(h)) == nil {
		return nil
	}
	_ = filepath.WalkDir(string(h), func(path string, entry os.DirEntry, _ error) error {
		if entry != nil && entry.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(string(h)); err != nil {
		return fmt.Errorf("the guest's folder can't be removed: %w", err)
	}
	return nil
}

// listen opens the socket, which only its owner may dial.
func listen(ctx context.Context, path string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("the guest's socket can't be opened: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("the guest's socket can't be closed to others: %w", err), listener.Close())
	}
	return listener, nil
}
