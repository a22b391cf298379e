// Package guestfiles reads the guest's files for its host: regular files and the names of those below
// a folder. The host names any path, and the task leaves whatever it likes at it, so nothing here
// waits for what isn't a file, or touches it: opening a device may already do something.
package guestfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Files is a ports.Files.
type Files struct {
	base string
}

var _ ports.Files = (*Files)(nil)

// ErrInvalidBase is a base folder that relative paths can't be taken from.
var ErrInvalidBase = errors.New("invalid base folder")

// New takes the folder from which relative paths are taken: the task's. It must be absolute.
func New(base string) (*Files, error) {
	if !filepath.IsAbs(base) {
		return nil, fmt.Errorf("%w %q: it must be an absolute path", ErrInvalidBase, base)
	}
	return &Files{base: filepath.Clean(base)}, nil
}

func (f *Files) full(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(f.base, path)
}

// file is an open regular file. All of *os.File is there, so that whoever sends it can use sendfile.
type file struct {
	*os.File
	size int64
}

func (f *file) Size() int64 { return f.size }

// Open is ports.Files'.
func (f *Files) Open(path string) (ports.File, error) {
	full := f.full(path)
	info, err := os.Stat(full)
	if err != nil {
		return nil, err
	}
	if err := regular(path, info); err != nil {
		return nil, err
	}
	// It may have become something else by now: so don't wait, and look again.
	opened, err := os.OpenFile(full, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, err
	}
	info, err = opened.Stat()
	if err == nil {
		err = regular(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return &file{File: opened, size: realSize(opened, info)}, nil
}

// regular tells what a path leads to, where it isn't a regular file.
func regular(path string, info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return fmt.Errorf("%s is %s: %w", domain.Quote(path), kind(info.Mode()), ports.ErrNotRegular)
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}
