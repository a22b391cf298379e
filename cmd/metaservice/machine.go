package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/ports"
)

// The machines that there are.
const (
	machineProcess = "process"
	machineQEMU    = "qemu"
)

// imageVariable names the folder of the image that guests boot from where no flag does.
const imageVariable = "METASERVICE_IMAGE"

// virtualBootPatience is how long a virtual machine may take to call. Without acceleration, a busy host and a
// large image make it slow.
const virtualBootPatience = 3 * time.Minute

// guestFlags say which guest to start, on which machine: the flags of run and shell alike.
type guestFlags struct {
	flags *pflag.FlagSet // of which they are
	kind  string

	tools, config string // of process

	image, network, memory, console, acceleration string // and the following: of qemu
	cpus                                          int
}

func (f *guestFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	f.flags = flags
	flags.StringVar(&f.kind, "machine", machineProcess, "make the guest a `KIND`: process, or qemu")
	flags.StringVar(&f.tools, "guest-tools", "", "(process) start this `FILE` (default beside metaservice, or on PATH)")
	flags.StringVar(&f.config, "config", "", "(process) configure guest-tools by this `FILE`")
	flags.StringVar(&f.image, "image", "", "(qemu) boot this `DIR` (default what 'make image' made)")
	flags.StringVar(&f.network, "network", "", "(qemu) a `KIND`: isolated, or nat to let the guest out")
	flags.StringVar(&f.memory, "memory", "", "(qemu) give the guest this much, a `SIZE` (default the image's)")
	flags.IntVar(&f.cpus, "cpus", 0, "(qemu) give the guest `N` processors (default the image's)")
	flags.StringVar(&f.acceleration, "acceleration", "", "(qemu) a `KIND`: kvm, tcg or auto (default auto)")
	flags.StringVar(&f.console, "console", "", "(qemu) write the guest's console to this `FILE`")
}

// forMachine are the flags that one kind of machine has, and no other one.
var forMachine = map[string][]string{
	machineProcess: {"guest-tools", "config"},
	machineQEMU:    {"image", "network", "memory", "cpus", "acceleration", "console"},
}

// check refuses flags that would mean nothing.
func (f *guestFlags) check() error {
	if _, known := forMachine[f.kind]; !known {
		return usagef("--machine %s: it must be process or qemu", f.kind)
	}
	for kind, names := range forMachine {
		for _, name := range names {
			if kind != f.kind && f.flags.Changed(name) {
				return usagef("--%s is for --machine %s", name, kind)
			}
		}
	}
	for _, name := range []string{"image", "console"} {
		if flag := f.flags.Lookup(name); flag.Changed && flag.Value.String() == "" {
			return usagef("--%s is empty", name)
		}
	}
	if f.network != "" && f.network != "isolated" && f.network != "nat" {
		return usagef("--network %s: it must be isolated or nat", f.network)
	}
	switch qemu.Acceleration(f.acceleration) {
	case "", qemu.Auto, qemu.KVM, qemu.TCG:
	default:
		return usagef("--acceleration %s: it must be auto, kvm or tcg", f.acceleration)
	}
	if f.flags.Changed("cpus") && (f.cpus < 1 || f.cpus > qemu.MaxCPUs) {
		return usagef("--cpus %d: it must be from 1 to %d", f.cpus, qemu.MaxCPUs)
	}
	if _, err := f.memoryBytes(); err != nil {
		return err
	}
	return nil
}

func (f *guestFlags) memoryBytes() (int64, error) {
	if f.memory == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(f.memory)
	if err != nil || n < uint64(qemu.MinMemory) || n > 1<<50 {
		return 0, usagef("--memory %s: it must be a size like 512MiB, of %s at least", f.memory, humanize.IBytes(uint64(qemu.MinMemory)))
	}
	return int64(n), nil
}

// machine makes the machine that was chosen.
func (f *guestFlags) machine(around *setting) (ports.Machine, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if f.kind == machineQEMU {
		around.boot = virtualBootPatience
		return f.virtual(around)
	}
	around.boot = bootPatience
	return processMachine(around, f.tools, f.config)
}

// virtual makes the machine whose guests are virtual machines, each on a network of its own.
func (f *guestFlags) virtual(around *setting) (ports.Machine, error) {
	folder, err := f.imageFolder()
	if err != nil {
		return nil, err
	}
	image, err := vmimage.Read(folder)
	if err != nil {
		return nil, err
	}
	memory, err := f.memoryBytes()
	if err != nil {
		return nil, err
	}
	return qemu.New(qemu.Config{
		Image:        image,
		Serve:        around.serve,
		Memory:       memory,
		CPUs:         f.cpus,
		NAT:          f.network == "nat",
		Acceleration: qemu.Acceleration(f.acceleration),
		Console:      f.openConsole(),
		Logger:       around.inner,
	})
}

// openConsole opens the file that --console names; nil is none.
func (f *guestFlags) openConsole() func() (io.WriteCloser, error) {
	if f.console == "" {
		return nil
	}
	return func() (io.WriteCloser, error) { return os.Create(f.console) }
}

// imageFolder is where the image is: where --image says, else the environment, else where 'make image' puts
// it.
func (f *guestFlags) imageFolder() (string, error) {
	if f.image != "" {
		return f.image, nil
	}
	if folder := os.Getenv(imageVariable); folder != "" {
		return folder, nil
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no image to boot: name one with --image DIR (%w)", err)
	}
	folder := filepath.Join(caches, "metaservice", "image")
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("there is no image to boot, neither named by --image nor at %s: 'make image' makes one", folder)
	}
	return folder, nil
}

// machineHelp is what the help of a command says about machines.
const machineHelp = `A guest is, by default, guest-tools as a child on this machine and as this user. It isolates
nothing: run what you trust. With --machine qemu it is a virtual machine with a kernel of its
own, which reaches nothing but this command; --network nat lets it out, but not to this host.`
