package vmimage

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/hexworker/metaservice/domain"
)

// maxModule bounds one kernel module, unpacked: the largest that are shipped have some 20 MiB.
const maxModule = 64 << 20

// kernelModule is one module's file, unpacked, and what its .modinfo section says.
type kernelModule struct {
	name    string   // with underscores: the kernel takes a dash for one
	file    string   // below the modules' folder, without what it was packed with
	release string   // of the kernel that it was built for
	depends []string // by name
	data    []byte
}

// unpackers are what a module may be packed with, by the end of its name: Debian 12 leaves them as they
// are, Debian 13 takes xz, others zstd.
var unpackers = map[string]func(io.Reader) (io.Reader, error){
	".ko":    func(r io.Reader) (io.Reader, error) { return r, nil },
	".ko.gz": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	".ko.xz": func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) },
	".ko.zst": func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
	},
}

// moduleName is a module's name and what it is packed with, by its file's name; "" is no module.
func moduleName(file string) (name, packed string) {
	base := path.Base(file)
	stem, _, found := strings.Cut(base, ".ko")
	if !found {
		return "", ""
	}
	packed = base[len(stem):]
	if _, known := unpackers[packed]; !known {
		return "", ""
	}
	return normalName(stem), packed
}

func normalName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// readModule unpacks and reads a module, file below the folder dir.
func readModule(dir *os.Root, file string) (*kernelModule, error) {
	name, packed := moduleName(file)
	m := &kernelModule{name: name, file: strings.TrimSuffix(file, packed) + ".ko"}
	opened, err := dir.Open(file)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	defer opened.Close()
	unpacked, err := unpackers[packed](opened)
	if err == nil {
		m.data, err = io.ReadAll(io.LimitReader(unpacked, maxModule+1))
	}
	if err != nil {
		return nil, fmt.Errorf("module %s can't be unpacked: %w", domain.Quote(file), err)
	}
	if len(m.data) > maxModule {
		return nil, fmt.Errorf("module %s has more than %d bytes", domain.Quote(file), maxModule)
	}
	if err := m.readInfo(); err != nil {
		return nil, fmt.Errorf("module %s: %w", domain.Quote(file), err)
	}
	return m, nil
}

// readInfo reads KEY=VALUE pairs, each ended by a NUL, of which a key may come more than once.
func (m *kernelModule) readInfo() error {
	object, err := elf.NewFile(bytes.NewReader(m.data))
	if err != nil {
		return fmt.Errorf("it is no module: %w", err)
	}
	if object.Machine != elf.EM_X86_64 {
		return fmt.Errorf("it is for %v, not for amd64", object.Machine)
	}
	section := object.Section(".modinfo")
	if section == nil {
		return errors.New("it is no module: it has no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return fmt.Errorf("its section .modinfo can't be read: %w", err)
	}
	for pair := range strings.SplitSeq(string(info), "\x00") {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					m.depends = append(m.depends, normalName(name))
				}
			}
		case "vermagic":
			m.release, _, _ = strings.Cut(value, " ")
		}
	}
	return nil
}
