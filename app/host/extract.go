package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// extraction is the taker of a folder whose files go to a handler. The first error ends it.
type extraction struct {
	path    string
	handler ports.FileHandler
	service *Service
	store   ports.Storage
	ctx     context.Context
	stop    context.CancelCauseFunc
	broken  atomic.Bool
}

func (x *extraction) begin(isFile bool) error {
	if isFile {
		return fmt.Errorf("%w: %s is a file, not a folder", domain.ErrResourceNotFound, domain.Quote(x.path))
	}
	return nil
}

func (x *extraction) storage(domain.ListedFile) ports.Storage { return x.store }

func (x *extraction) took(file domain.ListedFile, _ int64, content io.ReadSeekCloser) {
	defer content.Close()
	if kept, ok := content.(*folderFile); ok {
		kept.taken = 0 // they stay
	}
	if err := x.handler(file.Relative, content); err != nil {
		x.failed(file, fmt.Errorf("%w: %w", domain.ErrHandlerInterrupt, err))
	}
}

func (x *extraction) failed(_ domain.ListedFile, err error) {
	x.stop(err) // the first counts
	x.broken.Store(true)
}

// fetch brings out one file that no stream has brought.
func (x *extraction) fetch(file domain.ListedFile) {
	content, err := x.service.Fetch(x.ctx, file.Path, x.store)
	if err != nil {
		x.failed(file, err)
		return
	}
	x.took(file, 0, content)
}

// folderStorage keeps all files of one folder together within Limits.FolderBytes.
type folderStorage struct {
	ports.Storage
	left atomic.Int64
	full error
}

func newFolderStorage(inner ports.Storage, most int64) *folderStorage {
	s := &folderStorage{Storage: inner, full: &domain.LimitError{Limit: "FolderBytes", Max: most, Unit: "bytes"}}
	s.left.Store(most)
	return s
}

func (s *folderStorage) Create(size int64) (ports.Upload, error) {
	if size > s.left.Load() {
		return nil, s.full
	}
	upload, err := s.Storage.Create(size)
	if err != nil {
		return nil, err
	}
	return &folderUpload{Upload: upload, storage: s}, nil
}

// Space implements ports.StorageWithSpace.
func (s *folderStorage) Space() (free, disk int64, err error) { return spaceIn(s.Storage) }

type folderUpload struct {
	ports.Upload
	storage *folderStorage
	taken   int64 // given back where the try fails
}

func (u *folderUpload) Write(p []byte) (int, error) {
	u.taken += int64(len(p))
	if u.storage.left.Add(-int64(len(p))) < 0 {
		return 0, u.storage.full
	}
	return u.Upload.Write(p)
}

// ReadFrom has the storage take what comes by itself, where it can. No more comes than the folder has room for.
func (u *folderUpload) ReadFrom(r io.Reader) (int64, error) {
	to, ok := u.Upload.(io.ReaderFrom)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	most := announced(r)
	u.taken += most
	if u.storage.left.Add(-most) < 0 {
		return 0, u.storage.full
	}
	n, err := to.ReadFrom(r)
	u.taken += n - most
	if u.storage.left.Add(most-n) < 0 {
		err = errors.Join(err, u.storage.full)
	}
	return n, err
}

func (u *folderUpload) Commit() (io.ReadSeekCloser, error) {
	file, err := u.Upload.Commit()
	if err != nil {
		return nil, err
	}
	kept := &folderFile{file, u.storage, u.taken}
	u.taken = 0
	return kept, nil
}

func (u *folderUpload) Close() error {
	u.storage.left.Add(u.taken)
	u.taken = 0
	return u.Upload.Close()
}

// folderFile is a file that came whole.
type folderFile struct {
	io.ReadSeekCloser
	storage *folderStorage
	taken   int64 // given back where it came too late for anybody to take it
}

func (f *folderFile) Close() error {
	f.storage.left.Add(f.taken)
	f.taken = 0
	return f.ReadSeekCloser.Close()
}
