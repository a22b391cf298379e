package host

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// smallFile is the size up to which a file is read whole before anybody is given it.
	smallFile = 64 << 10
	// entryRoom is what an entry may have beside its content without that being counted: its header, what
	// fills its last block, and a header for a long name.
	entryRoom = 2 << 10
)

var (
	smallBlocks    = sync.Pool{New: func() any { return new([smallFile]byte) }}
	archiveReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 128<<10) }}
)

// receive reads an archive to its end, and hands over what is in it.
func (g *gathering) receive(ctx context.Context, a *ask, reply ports.ArchiveReply) error {
	switch reply.Error {
	case "":
	case fileNotFound:
		return domain.ErrResourceNotFound
	default:
		return fmt.Errorf("%w: %s", domain.ErrGuestError, domain.Quote(reply.Error))
	}
	body, done := g.service.paced(ctx, a, reply.Body)
	defer done()
	buffered := archiveReaders.Get().(*bufio.Reader)
	buffered.Reset(body)
	defer func() {
		buffered.Reset(nil)
		archiveReaders.Put(buffered)
	}()
	limits := g.service.limits
	tooLong := &domain.LimitError{Limit: "ListBytes", Max: limits.ListBytes, Unit: "bytes"}
	r := &arrival{gathering: g, ctx: ctx, tooLong: tooLong, nameRoom: limits.ListBytes,
		beside: &limitedReader{r: buffered, left: limits.ListBytes, err: tooLong}}
	if err := reply.Decode(r.beside, r.entry); err != nil {
		return err
	}
	if r.named {
		return nil
	}
	return g.begin(ctx, false) // it is empty
}

// arrival is an archive that is being read. It counts: entries, what is in files, what is in names, and, in
// beside, what else there is.
type arrival struct {
	*gathering
	ctx      context.Context
	named    bool // a file has come
	entries  int64
	content  int64
	nameRoom int64
	beside   *limitedReader
	tooLong  error
}

// entry takes one entry of the archive.
func (r *arrival) entry(entry domain.ArchiveEntry, content io.Reader) error {
	if entry.Folder { // no name, and as much of what isn't content as it takes
		return nil
	}
	limits := r.service.limits
	if r.entries++; r.entries > limits.ListEntries {
		return &domain.LimitError{Limit: "ListEntries", Max: limits.ListEntries, Unit: "names"}
	}
	r.beside.allow(entryRoom)
	file, kept, err := r.take(entry)
	if err != nil {
		return err
	}
	if kept {
		if r.nameRoom -= int64(len(entry.Name)); r.nameRoom < 0 {
			return r.tooLong
		}
		if err := r.first(file); err != nil {
			return err
		}
	}
	switch {
	case entry.Unfit != "": // what it says of its size is no word to go by
		return nil
	case entry.Failure == domain.FailureApart:
		return nil
	case kept && entry.Failure != "":
		return r.work(r.ctx, func() { r.fail(file, entry.Failure.Err()) })
	}
	if err := r.room(entry, file); err != nil {
		return err
	}
	if !kept {
		return nil
	}
	return r.file(file, entry.Size, content)
}

// first begins with the first file that has a name.
func (r *arrival) first(file domain.ListedFile) error {
	if r.named {
		return nil
	}
	r.named = true
	return r.begin(r.ctx, file.Relative == ".")
}

// room tells whether a file's content is within the limits, and makes room for it.
func (r *arrival) room(entry domain.ArchiveEntry, file domain.ListedFile) error {
	limits := r.service.limits
	if entry.Size > limits.ArtifactBytes {
		limit := &domain.LimitError{Limit: "ArtifactBytes", Max: limits.ArtifactBytes, Unit: "bytes"}
		if file.Relative != "" {
			err := r.work(r.ctx, func() { r.fail(file, fmt.Errorf("%w: %w", domain.ErrNonFatalInternalError, limit)) })
			if err != nil {
				return err
			}
		}
		return fmt.Errorf("%w: %w", errTooLarge, limit)
	}
	if entry.Size > limits.FolderBytes-r.content && file.Relative != "." {
		return &domain.LimitError{Limit: "FolderBytes", Max: limits.FolderBytes, Unit: "bytes"}
	}
	r.content += entry.Size
	r.beside.allow(entry.Size)
	return nil
}

// file hands over a file's content: a small file whole, a large one block by block.
func (r *arrival) file(file domain.ListedFile, size int64, content io.Reader) error {
	if size > smallFile {
		return r.large(file, size, content)
	}
	block := smallBlocks.Get().(*[smallFile]byte)
	if _, err := io.ReadFull(content, block[:size]); err != nil {
		smallBlocks.Put(block)
		return err
	}
	return r.work(r.ctx, func() {
		r.store(file, size, func(yield func([]byte) bool) { yield(block[:size]) })
		smallBlocks.Put(block)
	})
}

// largeBlock is a part of a large file. It goes back to the pool with whoever is given it.
type largeBlock struct {
	block *[1 << 20]byte
	n     int
}

func (r *arrival) large(file domain.ListedFile, size int64, content io.Reader) error {
	parts := make(chan largeBlock)
	defer close(parts)
	err := r.work(r.ctx, func() {
		r.store(file, size, eachBlock(r.ctx, parts))
		for range eachBlock(r.ctx, parts) { // of a file that can't be stored: the next one may be
		}
	})
	if err != nil {
		return err
	}
	for left := size; left > 0; {
		part := largeBlock{block: blocks.Get().(*[1 << 20]byte)}
		most := int(min(left, int64(len(part.block))))
		part.n, err = io.ReadAtLeast(content, part.block[:most], min(most, smallFile))
		if err != nil {
			blocks.Put(part.block)
			return err
		}
		left -= int64(part.n)
		select {
		case parts <- part:
		case <-r.ctx.Done():
			return errOver
		}
	}
	return nil
}

// eachBlock yields blocks until there are no more, or ctx ends.
func eachBlock(ctx context.Context, parts <-chan largeBlock) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			select {
			case part, more := <-parts:
				if !more {
					return
				}
				wanted := yield(part.block[:part.n])
				blocks.Put(part.block)
				if !wanted {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// store spools a file, and hands it over only if it came whole. A file that was cut isn't told of: it is
// fetched again.
func (g *gathering) store(file domain.ListedFile, size int64, parts iter.Seq[[]byte]) {
	content, err := g.spool(g.to.storage(file), size, parts)
	switch {
	case err != nil:
		g.fail(file, fmt.Errorf("%w: %w: %w", domain.ErrNonFatalInternalError, domain.ErrStorage, err))
	case content != nil:
		g.to.took(file, size, content)
		g.settled(file)
	}
}

// spool stores a file; nil is one that was cut.
func (g *gathering) spool(storage ports.Storage, size int64, parts iter.Seq[[]byte]) (io.ReadSeekCloser, error) {
	space := g.service.spaceOf(storage)
	if err := space.check(size); err != nil {
		return nil, err
	}
	upload, err := storage.Create(size)
	if err != nil {
		return nil, err
	}
	defer upload.Close() // after Commit it does nothing
	w := space.writer(upload)
	for part := range parts {
		if _, err := w.Write(part); err != nil {
			return nil, err
		}
		size -= int64(len(part))
	}
	if size > 0 {
		return nil, nil
	}
	return upload.Commit()
}
