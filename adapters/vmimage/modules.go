package vmimage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/hexworker/metaservice/domain"
)

// wantedModules are what a guest loads, in this order, each after what it depends on. They may be built
// into the kernel.
var wantedModules = []struct {
	name     string
	required bool // there is no guest without it
}{
	{"virtio_pci", true},
	{"virtio_net", true},
	{"virtio_rng", false}, // so that nobody waits for randomness
	{"virtio_blk", false},
	{"virtio_console", false},
	{"qemu_fw_cfg", false},
	{"af_packet", false},      // DHCP
	{"crc32c_generic", false}, // ext4 asks for it by an alias, and there is no modprobe to answer
	{"ext4", false},
	{"overlay", false},
}

// moduleFolder is a kernel's folder of modules, /lib/modules/RELEASE of an installed one. The depends=
// of each module say what it needs: modules.dep isn't in a package, but made when that is installed.
type moduleFolder struct {
	root    *os.Root
	files   map[string]string // by the module's name
	builtin map[string]bool
	loaded  map[string]*kernelModule
}

func openModules(dir string) (*moduleFolder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("the folder of modules can't be opened: %w", err)
	}
	f := &moduleFolder{root: root, files: make(map[string]string), builtin: make(map[string]bool), loaded: make(map[string]*kernelModule)}
	if err := f.scan(); err != nil {
		root.Close()
		return nil, fmt.Errorf("the folder of modules %s: %w", domain.Quote(dir), err)
	}
	return f, nil
}

func (f *moduleFolder) Close() error { return f.root.Close() }

func (f *moduleFolder) scan() error {
	err := fs.WalkDir(f.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		module, _ := moduleName(name)
		if other, twice := f.files[module]; twice && module != "" {
			return fmt.Errorf("%s and %s are the same module", domain.Quote(other), domain.Quote(name))
		}
		f.files[module] = name
		return nil
	})
	if err != nil {
		return err
	}
	delete(f.files, "") // what is no module
	list, err := f.root.Open("modules.builtin")
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(f.files) == 0:
		return errors.New("there are neither modules nor modules.builtin in it; it must be like /lib/modules/RELEASE")
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		if module, _ := moduleName(lines.Text()); module != "" {
			f.builtin[module] = true
		}
	}
	return lines.Err()
}

// resolve returns the modules that a guest needs, and more, in the order in which they load. All must be
// for the kernel of that release.
func (f *moduleFolder) resolve(ctx context.Context, release string, more []string) ([]*kernelModule, error) {
	var order []*kernelModule
	var wrong []error
	take := func(name string, required bool) {
		if ctx.Err() != nil {
			return
		}
		name = normalName(name)
		if _, there := f.files[name]; !there && !required {
			return
		}
		if err := f.add(name, nil, &order); err != nil {
			wrong = append(wrong, err)
		}
	}
	for _, wanted := range wantedModules {
		take(wanted.name, wanted.required)
	}
	for _, name := range more {
		take(name, true)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	others := make(map[string]bool)
	for _, m := range order {
		if m.release != release {
			others[m.release] = true
		}
	}
	for _, other := range slices.Sorted(maps.Keys(others)) {
		wrong = append(wrong, fmt.Errorf("the modules are for the kernel %s, the kernel is %s", domain.Quote(other), domain.Quote(release)))
	}
	return order, errors.Join(wrong...)
}

// add appends a module after those that it depends on. chain is who asked for it.
func (f *moduleFolder) add(name string, chain []string, order *[]*kernelModule) error {
	file, there := f.files[name]
	switch {
	case f.builtin[name] || f.loaded[name] != nil:
		return nil
	case slices.Contains(chain, name):
		return fmt.Errorf("modules depend on each other in a ring: %s", strings.Join(append(chain, name), ", "))
	case !there && len(chain) == 0:
		return fmt.Errorf("the module %s is neither in the folder nor built into the kernel", domain.Quote(name))
	case !there:
		return fmt.Errorf("the module %s, which %s depends on, is neither in the folder nor built into the kernel",
			domain.Quote(name), chain[len(chain)-1])
	}
	m, err := readModule(f.root, file)
	if err != nil {
		return err
	}
	for _, needed := range m.depends {
		if err := f.add(needed, append(slices.Clone(chain), name), order); err != nil {
			return err
		}
	}
	f.loaded[name] = m
	*order = append(*order, m)
	return nil
}
