package vmimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hexworker/metaservice/domain"
)

// maxDefinition bounds machine.json: nothing of it is large.
const maxDefinition = 1 << 16

// Image is a folder that a machine can boot from.
type Image struct {
	Definition        // with its defaults
	Dir        string // absolute
}

// KernelFile is where the kernel is.
func (i Image) KernelFile() string { return i.path(i.Kernel) }

// InitrdFile is where the initramfs is, or "".
func (i Image) InitrdFile() string { return i.path(i.Initrd) }

// DiskFile is where the disk is, or "".
func (i Image) DiskFile() string { return i.path(i.Disk) }

func (i Image) path(name string) string {
	if name == "" {
		return ""
	}
	return filepath.Join(i.Dir, filepath.FromSlash(name))
}

// Read reads an image's definition, and looks at its files: each must be a regular file that we can read
// and that begins as what it is for does. It names every mistake; its errors are ErrInvalidImage.
func Read(dir string) (Image, error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrInvalidImage, err)
	}
	text, err := readDefinition(full)
	if err != nil {
		return Image{}, fmt.Errorf("%w: %s: %w", ErrInvalidImage, domain.Quote(dir), err)
	}
	definition, err := Parse(text)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", domain.Quote(filepath.Join(dir, DefinitionName)), err)
	}
	image := Image{Definition: definition.WithDefaults(), Dir: full}
	if err := image.checkFiles(); err != nil {
		return Image{}, fmt.Errorf("%w: %s: %w", ErrInvalidImage, domain.Quote(dir), err)
	}
	return image, nil
}

// Write writes machine.json into a folder that has the files already: what Read would refuse isn't
// written.
func Write(dir string, d Definition) error {
	text, err := d.Format()
	if err != nil {
		return err
	}
	if err := (Image{Definition: d, Dir: dir}).checkFiles(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalidImage, domain.Quote(dir), err)
	}
	return os.WriteFile(filepath.Join(dir, DefinitionName), text, 0o644)
}

func readDefinition(dir string) ([]byte, error) {
	name := filepath.Join(dir, DefinitionName)
	file, err := openRegular(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("there is no %s in it: 'metaservice image build' makes one", DefinitionName)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", DefinitionName, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxDefinition+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxDefinition {
		return nil, fmt.Errorf("%s has more than %d bytes", DefinitionName, maxDefinition)
	}
	return text, nil
}

func (i Image) checkFiles() error {
	var wrong []error
	for _, file := range i.files() {
		if file.name == "" {
			continue
		}
		if err := i.checkFile(file); err != nil {
			wrong = append(wrong, fmt.Errorf("%s %s: %w", file.key, domain.Quote(file.name), err))
		}
	}
	return errors.Join(wrong...)
}

func (i Image) checkFile(f file) error {
	opened, err := openRegular(i.path(f.name))
	if err != nil {
		return err
	}
	defer opened.Close()
	head := make([]byte, headSize)
	n, err := io.ReadFull(opened, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return err
	}
	head = head[:n]
	switch {
	case n == 0:
		return errors.New("it is empty")
	case f.key == "kernel":
		return checkKernel(head)
	case f.key == "disk" && i.DiskFormat == FormatQCOW2 && !bytes.HasPrefix(head, qcow2Magic):
		return errors.New("it is no qcow2 disk; qemu-img info tells what it is")
	}
	return nil
}

// The marks by which files are known: Documentation/arch/x86/boot.rst of Linux, docs/interop/qcow2.txt
// of QEMU.
var (
	qcow2Magic  = []byte("QFI\xfb")
	kernelMagic = []byte("HdrS")
)

const (
	kernelMagicAt = 0x202
	headSize      = 1024
)

func checkKernel(head []byte) error {
	if len(head) < kernelMagicAt+len(kernelMagic) || !bytes.HasPrefix(head[kernelMagicAt:], kernelMagic) {
		return errors.New("it is no Linux kernel for amd64 (a bzImage, as in /boot/vmlinuz-*)")
	}
	return nil
}

// openRegular opens a file, but none that would block: a FIFO waits for its writer.
func openRegular(name string) (*os.File, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, unwrapPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, unwrapPath(err)
	}
	return file, nil
}

// unwrapPath takes the path off an error whose teller names it in the reader's words.
func unwrapPath(err error) error {
	if at, ok := errors.AsType[*os.PathError](err); ok {
		return at.Err
	}
	return err
}
