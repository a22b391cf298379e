package guestinit

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Wanted tells whether this process is to be init: it is process 1, and was started by that name. In a
// container guest-tools may be process 1, but they keep their own name.
func Wanted() bool { return os.Getpid() == 1 && filepath.Base(os.Args[0]) == "init" }

// environment is what guest-tools, and so the task, start with.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
}

// Main is init. It never returns: the kernel panics when its first process ends.
func Main() {
	o, err := prepare()
	if err == nil {
		err = bringUp(o) // a disk's init need know nothing of the network
	}
	if err == nil && o.root != "" && inInitramfs() {
		err = switchRoot(o) // returns only what it failed with
	}
	act := powerOff
	if err == nil {
		act, err = supervise(toolsCommand())
	}
	if err != nil {
		say("%v", err)
	}
	end(act)
}

// say writes a line to the console.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "init: "+format+"\n", args...) }

// prepare mounts what everything else needs, and loads the modules.
func prepare() (options, error) {
	if err := mountAll(); err != nil {
		return options{}, err
	}
	takeConsole()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return options{}, err
	}
	o, err := parseOptions(string(line))
	if err != nil {
		return options{}, err
	}
	return o, loadModules(modulesList)
}

// bringUp does what is left before guest-tools start.
func bringUp(o options) error {
	if err := unix.Sethostname([]byte("guest")); err != nil {
		say("the name of the host can't be set: %v", err)
	}
	return setUpNetwork(o)
}

// toolsCommand is guest-tools, as a child.
func toolsCommand() command {
	// os.Executable looked before there was a /proc.
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		self = os.Args[0]
	}
	c := command{args: []string{self, "run"}, env: environment, dir: "/"}
	if _, err := os.Stat(configFile); err == nil {
		c.args = append(c.args, "--config", configFile)
	}
	if info, err := os.Stat("/root"); err == nil && info.IsDir() {
		c.dir = "/root"
	}
	return c
}

// takeConsole makes the console our standard input and outputs: the kernel opens it for the first process
// only where /dev was there by then.
func takeConsole() {
	console, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // and so what the kernel gave us stays
	}
	for fd := range 3 {
		_ = unix.Dup2(console, fd)
	}
	unix.Close(console)
}
