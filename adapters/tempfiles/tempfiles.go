// Package tempfiles keeps uploaded bytes in files under one folder, and leaves none behind: where the
// system allows it, a file loses its name as soon as it is there, so that not even a host that is
// killed leaves one.
package tempfiles

import (
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
	upload, err := s.Create(0)
	if err != nil {
		return nil, err
	}
	return s, upload.Close()
}

// Create implements ports.Storage.
func (s *Storage) Create(int64) (ports.Upload, error) {
	file, err := os.CreateTemp(s.folder, "metaservice-*")
	if err != nil {
		return nil, fmt.Errorf("temporary files can't be made in the folder %q; it must be there, be writable and have space: %w", s.folder, err)
	}
	f := &tempFile{File: file}
	// Windows can't remove a file that is open: there it goes when it is closed.
	if err := os.Remove(file.Name()); err == nil {
		f.removed = true
	}
	return &upload{file: f}, nil
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

// upload is a temporary file that is being written.
type upload struct {
	file      *tempFile
	committed bool
}

func (u *upload) Write(p []byte) (int, error) { return u.file.Write(p) }

func (u *upload) Commit() (io.ReadSeekCloser, error) {
	if u.committed {
		return nil, errors.New("the upload is committed already")
	}
	if _, err := u.file.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, u.file.Close())
	}
	u.committed = true
	return reader{u.file}, nil
}

func (u *upload) Close() error {
	if u.committed {
		return nil
	}
	return u.file.Close()
}

// reader is what an upload becomes: readable, and nothing else. WriteTo lets it be sent from the
// kernel.
type reader struct{ file *tempFile }

func (r reader) Read(p []byte) (int, error)                { return r.file.Read(p) }
func (r reader) Seek(off int64, whence int) (int64, error) { return r.file.Seek(off, whence) }
func (r reader) WriteTo(w io.Writer) (int64, error)        { return r.file.WriteTo(w) }
func (r reader) Close() error                              { return r.file.Close() }

var _ ports.Storage = (*Storage)(nil)
