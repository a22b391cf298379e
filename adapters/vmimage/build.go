package vmimage

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/hexworker/metaservice/domain"
)

// The files of an image that Build makes.
const (
	kernelName = "vmlinuz"
	initrdName = "initrd.img"
)

// Where guest-tools find what they need in an initramfs. adapters/guestinit knows these names, too.
const (
	initPath    = "init"
	toolsPath   = "sbin/guest-tools"
	modulesPath = "lib/metaservice/modules" // paths of modules, in the order in which they load
)

// BuildConfig says what an image is made of.
type BuildConfig struct {
	Kernel     string   // a bzImage
	Modules    string   // the folder of the kernel's modules, like /lib/modules/RELEASE
	Root       string   // a folder, or RootBusybox
	GuestTools string   // the program guest-tools for linux/amd64
	More       []string // modules to load beside those that each guest needs
	Append     string   // of the definition, and so the next two
	Memory     Size
	CPUs       int
	Output     string // the folder to make: it must not be there, or be empty
}

// Build makes an image, the same from the same files. It checks everything first, and what it makes is
// whole or not there at all. Once ctx ends it stops, and leaves nothing.
func Build(ctx context.Context, c BuildConfig) (Image, error) {
	if runtime.GOOS == "windows" {
		return Image{}, errors.New("images can't be made on Windows, whose files don't say which are programs")
	}
	definition := Definition{Version: Version, Arch: ArchAMD64, Kernel: kernelName, Initrd: initrdName,
		Append: c.Append, Memory: c.Memory, CPUs: c.CPUs}
	if err := errors.Join(c.check(), definition.Check(), checkOutput(c.Output)); err != nil {
		return Image{}, err
	}
	kernel, release, err := readKernel(c.Kernel)
	if err != nil {
		return Image{}, err
	}
	t := make(tree)
	if c.Root == RootBusybox {
		err = t.putBusybox(ctx)
	} else {
		var root *os.Root
		if root, err = os.OpenRoot(c.Root); err == nil {
			defer root.Close()
			err = t.putRoot(ctx, root)
		}
	}
	if err != nil {
		return Image{}, fmt.Errorf("the root: %w", err)
	}
	if err := c.addOurs(ctx, t, release); err != nil {
		return Image{}, err
	}
	return c.write(ctx, t, kernel, definition)
}

// check names what is missing.
func (c BuildConfig) check() error {
	var wrong []error
	for _, need := range []struct{ value, what string }{
		{c.Kernel, "the kernel"}, {c.Modules, "the folder of modules"}, {c.Root, "the root"},
		{c.GuestTools, "guest-tools"}, {c.Output, "the folder to make"},
	} {
		if need.value == "" {
			wrong = append(wrong, fmt.Errorf("%s isn't named", need.what))
		}
	}
	return errors.Join(wrong...)
}

// readKernel reads a kernel, and which release it says it is.
func readKernel(name string) (data []byte, release string, err error) {
	file, err := openRegular(name)
	if err == nil {
		defer file.Close()
		data, err = io.ReadAll(file)
	}
	if err == nil {
		err = checkKernel(data[:min(len(data), headSize)])
	}
	if err == nil {
		release, err = kernelRelease(data)
	}
	if err != nil {
		return nil, "", fmt.Errorf("the kernel %s: %w", domain.Quote(name), err)
	}
	return data, release, nil
}

// kernelRelease is the first word of the version that a bzImage tells, at an offset of its header.
func kernelRelease(kernel []byte) (string, error) {
	const field, base, longest = 0x20e, 0x200, 256
	at := int(binary.LittleEndian.Uint16(kernel[field:])) + base
	if at == base || at >= len(kernel) {
		return "", errors.New("it doesn't say its version")
	}
	text, _, _ := bytes.Cut(kernel[at:min(len(kernel), at+longest)], []byte{0})
	release, _, _ := strings.Cut(string(text), " ")
	if release == "" {
		return "", errors.New("it doesn't say its version")
	}
	return release, nil
}

// checkProgram refuses what can't run in a bare guest.
func checkProgram(data []byte) error {
	program, err := elf.NewFile(bytes.NewReader(data))
	switch {
	case err != nil:
		return errors.New("it is no program for Linux")
	case program.Machine != elf.EM_X86_64:
		return fmt.Errorf("it is for %v, not for amd64", program.Machine)
	}
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			return errors.New("it needs shared libraries: it must be static (CGO_ENABLED=0 makes Go programs so)")
		}
	}
	return nil
}

// addOurs puts what makes a guest of it into a root: the modules, and guest-tools.
func (c BuildConfig) addOurs(ctx context.Context, t tree, release string) error {
	modules, err := openModules(c.Modules)
	if err != nil {
		return err
	}
	defer modules.Close()
	order, err := modules.resolve(ctx, release, c.More)
	if err != nil {
		return err
	}
	if err := t.putModules(release, order); err != nil {
		return err
	}
	return t.putTools(c.GuestTools)
}

// putModules takes the modules in, and the list of them.
func (t tree) putModules(release string, order []*kernelModule) error {
	var list strings.Builder
	for _, m := range order {
		name := path.Join("lib/modules", release, m.file)
		if err := t.putFile(name, 0o644, m.data); err != nil {
			return err
		}
		fmt.Fprintf(&list, "/%s\n", name)
	}
	return t.putFile(modulesPath, 0o644, []byte(list.String()))
}

// putTools takes guest-tools in as init, and makes the folders that they mount things at.
func (t tree) putTools(tools string) error {
	data, err := readProgram(tools)
	if err != nil {
		return fmt.Errorf("guest-tools %s: %w; they must be for linux/amd64", domain.Quote(tools), err)
	}
	if _, there := t[initPath]; there {
		return errors.New("the root has a file /init already, which the kernel would start in place of guest-tools")
	}
	if err := t.putFile(toolsPath, 0o755, data); err != nil {
		return err
	}
	if err := t.putLink(initPath, "/"+toolsPath); err != nil {
		return err
	}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys"} {
		if err := t.putFolder(dir, 0o755); err != nil {
			return err
		}
	}
	return errors.Join(t.putFolder("root", 0o700), t.putFolder("tmp", 0o777|01000))
}
