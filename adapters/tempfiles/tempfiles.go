// Package tempfiles keeps uploaded bytes in files under one folder, and leaves none behind: where the
// system allows it, a file loses its name as soon as it is there, so that not even a host that is
// killed leaves one. What is small (64 KiB) stays in memory.
package tempfiles

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/hexworker/metaservice/ports"
)

// Storage is a ports.Storage in a folder.
type Storage struct{ folder string }

// New makes a Storage in a folder that is there already; empty means the system's own for temporary
// files. It writes and removes a file to see that it can.
func New(folder string) (*Storage, error) {
	if folder == "" {
		folder = os.TempDir()
	}
	s := &Storage{folder: folder}
	file, err := s.temporary()
	if err != nil {
		return nil, err
	}
	return s, file.Close()
}

// Create implements ports.Storage.
func (s *Storage) Create(size int64) (ports.Upload, error) {
	u := &upload{storage: s}
	if size > inMemory {
		if err := u.spill(); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// temporary makes a file.
func (s *Storage) temporary() (*tempFile, error) {
	file, err := os.CreateTemp(s.folder, "metaservice-*")
	if err != nil {
		return nil, fmt.Errorf("temporary files can't be made in the folder %q; it must be there, be writable and have space: %w", s.folder, err)
	}
	f := &tempFile{File: file}
	// Windows can't remove a file that is open: there it goes when it is closed.
	if err := os.Remove(file.Name()); err == nil {
		f.removed = true
	}
	return f, nil
}

// tempFile is a temporary file, gone once it is closed.
type tempFile struct {
	*os.File
	removed bool
	once    sync.Once
	err     error
}

func (f *tempFile) Close() error {
	f.once.Do(func() {
		f.err = f.File.Close()
		if !f.removed {
			f.err = errors.Join(f.err, os.Remove(f.Name()))
		}
	})
	return f.err
}

// inMemory is the size up to which an upload needs no file: most artifacts are small, and a file costs
// more than they do.
const inMemory = 64 << 10

// upload is in memory while it is small, and then in a temporary file.
type upload struct {
	storage *Storage
	small   bytes.Buffer
	file    *tempFile // nil while it is small
	ended   bool
}

func (u *upload) Write(p []byte) (int, error) {
	if u.ended {
		return 0, errEnded
	}
	if u.file == nil && u.small.Len()+len(p) <= inMemory {
		return u.small.Write(p)
	}
	if err := u.spill(); err != nil {
		return 0, err
	}
	return u.file.Write(p)
}

// ReadFrom takes bytes off a socket in the kernel.
func (u *upload) ReadFrom(r io.Reader) (int64, error) {
	if u.ended {
		return 0, errEnded
	}
	if err := u.spill(); err != nil {
		return 0, err
	}
	return u.file.ReadFrom(r)
}

// spill moves what is in memory to a file.
func (u *upload) spill() error {
	if u.file != nil {
		return nil
	}
	file, err := u.storage.temporary()
	if err != nil {
		return err
	}
	if _, err := file.Write(u.small.Bytes()); err != nil {
		return errors.Join(err, file.Close())
	}
	u.file, u.small = file, bytes.Buffer{}
	return nil
}

var errEnded = errors.New("the upload has ended already")

func (u *upload) Commit() (io.ReadSeekCloser, error) {
	if u.ended {
		return nil, errEnded
	}
	u.ended = true
	if u.file == nil {
		return memory{bytes.NewReader(u.small.Bytes())}, nil
	}
	if _, err := u.file.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, u.file.Close())
	}
	return reader{u.file}, nil
}

func (u *upload) Close() error {
	if u.ended {
		return nil
	}
	u.ended = true
	if u.file == nil {
		return nil
	}
	return u.file.Close()
}

// memory is what a small upload becomes.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// reader is what an upload becomes: readable, and nothing else. WriteTo lets it be sent from the
// kernel.
type reader struct{ file *tempFile }

func (r reader) Read(p []byte) (int, error)                { return r.file.Read(p) }
func (r reader) Seek(off int64, whence int) (int64, error) { return r.file.Seek(off, whence) }
func (r reader) WriteTo(w io.Writer) (int64, error)        { return r.file.WriteTo(w) }
func (r reader) Close() error                              { return r.file.Close() }

var _ ports.StorageWithSpace = (*Storage)(nil)
