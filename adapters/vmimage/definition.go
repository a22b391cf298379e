// Package vmimage reads and makes the images that guests boot from: a folder with a kernel, an initramfs,
// perhaps a disk, and machine.json, which says how they belong together. docs/images.md is its manual.
package vmimage

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/hexworker/metaservice/domain"
)

// DefinitionName is the file of an image that says what the image is made of.
const DefinitionName = "machine.json"

// The version of machine.json, and the architecture that there are machines for.
const (
	Version   = 1
	ArchAMD64 = "amd64"
)

// What a definition says by leaving it out, and what it may say.
const (
	DefaultMemory = 256 * mebibyte
	DefaultCPUs   = 1

	MinMemory = 64 * mebibyte
	MaxMemory = 1 << 20 * mebibyte
	MaxCPUs   = 64
	maxAppend = 1024 // a kernel takes 2,048 bytes in all

	mebibyte Size = 1 << 20
)

// ErrInvalidImage is a folder that no machine can boot from.
var ErrInvalidImage = errors.New("invalid image")

// DiskFormat is how the bytes of a disk are laid out.
type DiskFormat string

// The formats there are.
const (
	FormatRaw   DiskFormat = "raw"
	FormatQCOW2 DiskFormat = "qcow2"
)

// Size is a number of bytes, as text with a unit: 256MiB.
type Size int64

// MarshalText is UnmarshalText's inverse.
func (s Size) MarshalText() ([]byte, error) {
	for _, unit := range []struct {
		name  string
		bytes Size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s != 0 && s%unit.bytes == 0 {
			return fmt.Appendf(nil, "%d%s", s/unit.bytes, unit.name), nil
		}
	}
	return fmt.Appendf(nil, "%dB", s), nil
}

// UnmarshalText takes a whole or broken number with or without a unit.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > 1<<62 {
		return fmt.Errorf("%s is no size: it must be like 256MiB", domain.Quote(string(text)))
	}
	*s = Size(n)
	return nil
}

// String is the size as machine.json has it.
func (s Size) String() string {
	text, _ := s.MarshalText()
	return string(text)
}

// Definition is machine.json. Its files are named relative to its folder, with slashes.
type Definition struct {
	Version    int        `json:"version"`
	Arch       string     `json:"arch"`
	Kernel     string     `json:"kernel"`
	Initrd     string     `json:"initrd,omitzero"`     // none: the kernel mounts the disk by itself
	Disk       string     `json:"disk,omitzero"`       // none: everything is in the initramfs
	DiskFormat DiskFormat `json:"diskFormat,omitzero"` // of the disk, which must have one
	Append     string     `json:"append,omitzero"`     // more of the kernel's command line
	Memory     Size       `json:"memory,omitzero"`     // DefaultMemory where it is zero
	CPUs       int        `json:"cpus,omitzero"`       // DefaultCPUs where it is zero
}

// WithDefaults fills in what was left out.
func (d Definition) WithDefaults() Definition {
	if d.Memory == 0 {
		d.Memory = DefaultMemory
	}
	if d.CPUs == 0 {
		d.CPUs = DefaultCPUs
	}
	return d
}

// Check looks at the values alone, and names each that can't be. Its errors are ErrInvalidImage.
func (d Definition) Check() error {
	var wrong []error
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if d.Version != Version {
		refuse("version is %d: it must be %d", d.Version, Version)
	}
	if d.Arch != ArchAMD64 {
		refuse("arch is %s: it must be %q", domain.Quote(d.Arch), ArchAMD64)
	}
	if d.Kernel == "" {
		refuse("kernel is missing: it names the file that the machine boots")
	}
	if d.Initrd == "" && d.Disk == "" {
		refuse("neither initrd nor disk is there: the kernel would find nothing to start")
	}
	for _, file := range d.files() {
		if file.name != "" && !isLocalName(file.name) {
			refuse("%s is %s: it must be a file's name relative to the image, and inside of it", file.key, domain.Quote(file.name))
		}
	}
	switch {
	case d.Disk == "" && d.DiskFormat != "":
		refuse("diskFormat is there without a disk")
	case d.Disk != "" && d.DiskFormat != FormatRaw && d.DiskFormat != FormatQCOW2:
		refuse("diskFormat is %s: it must be %q or %q", domain.Quote(string(d.DiskFormat)), FormatRaw, FormatQCOW2)
	}
	if len(d.Append) > maxAppend {
		refuse("append has %d bytes, at most %d fit", len(d.Append), maxAppend)
	}
	if strings.ContainsFunc(d.Append, unicode.IsControl) {
		refuse("append is %s: it must be one line of text", domain.Quote(d.Append))
	}
	if d.Memory != 0 {
		wrong = append(wrong, checkMemory(d.Memory))
	}
	if d.CPUs != 0 {
		wrong = append(wrong, checkCPUs(d.CPUs))
	}
	if err := errors.Join(wrong...); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidImage, err)
	}
	return nil
}

func checkMemory(memory Size) error {
	if memory < MinMemory || memory > MaxMemory {
		return fmt.Errorf("memory is %s: it must be from %s to %s", memory, MinMemory, MaxMemory)
	}
	return nil
}

func checkCPUs(cpus int) error {
	if cpus < 1 || cpus > MaxCPUs {
		return fmt.Errorf("cpus is %d: it must be from 1 to %d", cpus, MaxCPUs)
	}
	return nil
}

// isLocalName tells whether a name with slashes stays inside its folder, on every platform.
func isLocalName(name string) bool {
	return filepath.IsLocal(filepath.FromSlash(name)) && name != "." &&
		!strings.ContainsFunc(name, unicode.IsControl) && !strings.Contains(name, `\`)
}

// file is one of a definition's files: the key that names it, and the name.
type file struct{ key, name string }

func (d Definition) files() []file {
	return []file{{"kernel", d.Kernel}, {"initrd", d.Initrd}, {"disk", d.Disk}}
}

// Parse takes the text of machine.json. It is strict: a key that isn't known or comes twice is an error, and
// so is null, or nothing where there must be something. It names each mistake: those of the keys in their
// order or, where there are none, what Check finds.
func Parse(text []byte) (Definition, error) {
	var given map[string]jsontext.Value
	if err := json.Unmarshal(text, &given); err != nil {
		return Definition{}, fmt.Errorf("%w: %w", ErrInvalidImage, err)
	}
	var d Definition
	var wrong []error
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if err := d.set(key, given[key]); err != nil {
			wrong = append(wrong, err)
		}
	}
	if len(wrong) > 0 {
		return Definition{}, fmt.Errorf("%w: %w", ErrInvalidImage, errors.Join(wrong...))
	}
	if err := d.Check(); err != nil {
		return Definition{}, err
	}
	return d, nil
}

// set sets what a key of machine.json says.
func (d *Definition) set(key string, value jsontext.Value) error {
	fields := map[string]any{
		"version": &d.Version, "arch": &d.Arch, "kernel": &d.Kernel, "initrd": &d.Initrd, "disk": &d.Disk,
		"diskFormat": &d.DiskFormat, "append": &d.Append, "memory": &d.Memory, "cpus": &d.CPUs,
	}
	field, known := fields[key]
	if !known {
		return fmt.Errorf("%s is there: the keys are %s", domain.Quote(key), strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	// What is left out has a default, and null or zero would be taken for that.
	if value.Kind() == 'n' {
		return fmt.Errorf("%s is null: give it a value, or leave it out", key)
	}
	if err := json.Unmarshal(value, field); err != nil {
		return fmt.Errorf("%s is %s: %w", key, domain.Quote(string(value)), err)
	}
	switch {
	case key == "memory" && d.Memory == 0:
		return checkMemory(0)
	case key == "cpus" && d.CPUs == 0:
		return checkCPUs(0)
	}
	return nil
}

// Format is the text that Parse takes.
func (d Definition) Format() ([]byte, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(d, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}
