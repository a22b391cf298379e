package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Wanted is a file or a folder to bring out of the guest. Which of the two it is, the guest tells;
// then one of the functions is called, once.
type Wanted struct {
	Path   string                        // in the guest's syntax
	File   func() (ports.Storage, error) // where a file goes
	Folder func() (ports.Folder, error)  // where a folder's files go
}

// Collected is what became of it.
type Collected struct {
	Path    string
	IsFile  bool
	Files   int   // brought out, whole
	Bytes   int64 // in them
	Refused int   // names in the folder that can't be kept
	Missing bool  // the guest has nothing at this path
	Err     error // nil if all of it is there
}

// Progress is how far one Collect has come.
type Progress struct {
	Path   string
	Files  int   // brought out
	Total  int   // files that there are; 0 while that isn't known
	Bytes  int64 // that came
	Expect int64 // bytes that are to come in all; -1 where that isn't known
}

const (
	collectors  = 8  // files fetched at a time: round trips overlap, and no disk is flooded
	maxFailures = 16 // in a row, other than of files that aren't there, after which the rest of a folder isn't tried
	keepErrors  = 8  // errors that are described
)

// Collect brings a file, or a folder with all that is below it, out of the guest. Each file is whole
// or absent. One file that fails doesn't keep the others from coming. progress may be nil; it is
// called by one goroutine at a time and must not block.
func (s *Service) Collect(ctx context.Context, wanted Wanted, progress func(Progress)) Collected {
	c := &collection{service: s, wanted: wanted, result: Collected{Path: wanted.Path}, report: progress}
	c.progress = Progress{Path: wanted.Path, Expect: -1}
	if err := c.collect(ctx); err != nil {
		c.fail("", err)
	}
	c.mu.Lock()
	c.report = nil // a reply that can't be interrupted may go on for nobody
	c.mu.Unlock()
	// Files come in any order; what is said of them doesn't.
	slices.SortStableFunc(c.errs, func(a, b fileError) int { return strings.Compare(a.file, b.file) })
	errs := make([]error, len(c.errs))
	for i, e := range c.errs {
		errs[i] = e.err
	}
	c.result.Err = errors.Join(errs...)
	if more := c.failures - len(c.errs); more > 0 {
		c.result.Err = fmt.Errorf("%w\nand %d more", c.result.Err, more)
	}
	c.result.Err = errors.Join(c.result.Err, c.untried)
	return c.result
}

// fileError is what a file failed of; one without a file is of all of them.
type fileError struct {
	file string
	err  error
}

// collection is the taker of what goes where it is wanted.
type collection struct {
	service *Service
	wanted  Wanted
	report  func(Progress)
	giveUp  context.CancelCauseFunc
	file    ports.Storage // where the file goes
	folder  ports.Folder  // where the folder's files go

	mu       sync.Mutex // guards what follows
	result   Collected
	progress Progress
	errs     []fileError
	failures int
	inARow   int
	expected int64 // bytes that room is kept for
	full     error // the folder is: the others would only fail the same way
	untried  error // told beside the others, however many those are
}

func (c *collection) collect(ctx context.Context) error {
	ctx, c.giveUp = context.WithCancelCause(ctx)
	defer c.giveUp(nil)
	rest, err := c.service.gather(ctx, c.wanted.Path, c)
	if err != nil {
		c.result.Missing = c.folder == nil && errors.Is(err, domain.ErrResourceNotFound)
		if c.folder != nil { // told beside the files' own errors, however many those are
			c.untried = fmt.Errorf("%w\nthe rest of the folder was not tried", err)
			return nil
		}
		return err
	}
	c.result.Refused = rest.Refused
	if rest.Refused > 0 {
		c.fail("", fmt.Errorf("%d names in the folder can't be kept: %w", rest.Refused, errors.Join(rest.Reasons...)))
	}
	if len(rest.Files) > 0 && !c.result.IsFile {
		c.advance(func(p *Progress) { p.Total = p.Files + len(rest.Files) })
	}
	tried := eachFile(ctx, rest.Files, func(file domain.ListedFile) { c.fetch(ctx, file) })
	if tried < len(rest.Files) {
		c.untried = fmt.Errorf("%d of %d files were not tried", len(rest.Files)-tried, len(rest.Files))
	}
	return nil
}

// begin implements taker.
func (c *collection) begin(isFile bool) (err error) {
	if isFile {
		c.mu.Lock()
		c.result.IsFile = true
		c.mu.Unlock()
		c.file, err = c.wanted.File()
		return err
	}
	c.folder, err = c.wanted.Folder()
	return err
}

// storage implements taker.
func (c *collection) storage(file domain.ListedFile) ports.Storage {
	if c.file != nil {
		return &countedStorage{Storage: c.file, c: c}
	}
	return &countedStorage{Storage: c.folder.File(file.Relative), c: c}
}

// took implements taker.
func (c *collection) took(file domain.ListedFile, size int64, content io.ReadSeekCloser) {
	if counted, ok := content.(*countedFile); ok {
		counted.bytes = 0 // they stay
	}
	if err := content.Close(); err != nil {
		c.failed(file, err)
		return
	}
	c.mu.Lock()
	c.inARow = 0
	c.result.Files++
	c.result.Bytes += size
	c.mu.Unlock()
	c.advance(func(p *Progress) { p.Files++ })
}

// failed implements taker.
func (c *collection) failed(file domain.ListedFile, err error) {
	c.fail(file.Relative, err)
	if why := c.hopeless(); why != nil {
		c.giveUp(why) // those under way are told it too, whoever was first
	}
}

// eachFile calls f with each file, several at a time, until ctx ends, and tells for how many it did.
func eachFile(ctx context.Context, files []domain.ListedFile, f func(domain.ListedFile)) (tried int) {
	todo := make(chan domain.ListedFile)
	var workers sync.WaitGroup
	for range min(collectors, len(files)) {
		workers.Go(func() {
			for file := range todo {
				f(file)
			}
		})
	}
	for _, file := range files {
		select {
		case todo <- file:
			tried++
			continue
		case <-ctx.Done():
		}
		break
	}
	close(todo)
	workers.Wait()
	return tried
}

// fetch brings out one file that no stream has brought.
func (c *collection) fetch(ctx context.Context, file domain.ListedFile) {
	content, err := c.service.Fetch(ctx, file.Path, c.storage(file))
	if err != nil {
		c.failed(file, err)
		return
	}
	c.took(file, content.(*countedFile).bytes, content)
}

// fail notes an error. A file that isn't there, or can't be opened, says nothing about the others.
func (c *collection) fail(file string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures++
	if !errors.Is(err, domain.ErrResourceNotFound) {
		c.inARow++
	}
	if len(c.errs) < keepErrors {
		c.errs = append(c.errs, fileError{file, err})
	}
}

var errHopeless = fmt.Errorf("%w: %d other files failed in a row", domain.ErrNonFatalInternalError, maxFailures)

// hopeless is why the rest of a folder is not worth trying; nil is that it is.
func (c *collection) hopeless() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.full != nil:
		return c.full
	case c.inARow >= maxFailures:
		return errHopeless
	}
	return nil
}

func (c *collection) advance(change func(*Progress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.progress)
	if c.report != nil {
		c.report(c.progress)
	}
}

// room tells whether so many bytes more are within the limit on all of a folder, and counts them if they
// are to come now.
func (c *collection) room(n int64, now bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.within(n); err != nil {
		return err
	}
	if now {
		c.progress.Bytes += n
	}
	return nil
}

// within is called with mu held.
func (c *collection) within(n int64) error {
	most := c.service.limits.FolderBytes
	if c.result.IsFile || n <= most-c.progress.Bytes-c.expected {
		return nil
	}
	limit := &domain.LimitError{Limit: "FolderBytes", Max: most, Unit: "bytes"}
	c.full = fmt.Errorf("%w: %w", domain.ErrNonFatalInternalError, limit)
	return limit
}

// expect keeps room for bytes that come without being seen. They are counted when they have: call came.
func (c *collection) expect(n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.within(n); err != nil {
		return err
	}
	c.expected += n
	return nil
}

// came counts bytes of which so many were expected.
func (c *collection) came(n, expected int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expected -= expected
	if err := c.within(n); err != nil {
		return err
	}
	c.progress.Bytes += n
	return nil
}

// countedStorage counts what is stored.
type countedStorage struct {
	ports.Storage
	c *collection
}

func (s *countedStorage) Create(size int64) (ports.Upload, error) {
	s.c.advance(func(p *Progress) {
		if s.c.result.IsFile {
			p.Expect = size
		}
	})
	if err := s.c.room(max(size, 0), false); err != nil {
		return nil, err
	}
	upload, err := s.Storage.Create(size)
	if err != nil {
		return nil, err
	}
	return &countedUpload{Upload: upload, c: s.c}, nil
}

// Space implements ports.StorageWithSpace.
func (s *countedStorage) Space() (free, disk int64, err error) { return spaceIn(s.Storage) }

type countedUpload struct {
	ports.Upload
	c     *collection
	bytes int64 // given back where the try fails
}

func (u *countedUpload) Write(p []byte) (int, error) {
	if err := u.c.room(int64(len(p)), true); err != nil {
		return 0, err
	}
	n, err := u.Upload.Write(p)
	u.bytes += int64(n)
	unwritten := int64(len(p) - n)
	u.c.advance(func(p *Progress) { p.Bytes -= unwritten })
	return n, err
}

// ReadFrom has the storage take what comes by itself, where it can. No more comes than the folder has room for.
func (u *countedUpload) ReadFrom(r io.Reader) (int64, error) {
	to, ok := u.Upload.(io.ReaderFrom)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	most := announced(r)
	if err := u.c.expect(most); err != nil {
		return 0, err
	}
	n, err := to.ReadFrom(r)
	full := u.c.came(n, most)
	if full == nil {
		u.bytes += n
	}
	u.c.advance(func(*Progress) {})
	return n, errors.Join(err, full)
}

func (u *countedUpload) Commit() (io.ReadSeekCloser, error) {
	file, err := u.Upload.Commit()
	if err != nil {
		return nil, err
	}
	counted := &countedFile{file, u.c, u.bytes}
	u.bytes = 0
	return counted, nil
}

func (u *countedUpload) Close() error {
	if u.bytes > 0 {
		u.c.advance(func(p *Progress) { p.Bytes -= u.bytes })
		u.bytes = 0
	}
	return u.Upload.Close()
}

// countedFile is a file that came whole.
type countedFile struct {
	io.ReadSeekCloser
	c     *collection
	bytes int64 // given back where it came too late for anybody to take it
}

func (f *countedFile) Close() error {
	if f.bytes > 0 {
		f.c.advance(func(p *Progress) { p.Bytes -= f.bytes })
		f.bytes = 0
	}
	return f.ReadSeekCloser.Close()
}
