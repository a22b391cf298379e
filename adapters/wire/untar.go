package wire

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hexworker/metaservice/domain"
)

// maxArchiveHeaders is how much may come between an entry's content and the next entry: its headers, and the rest
// of a file with holes. A longest name takes 6 KiB; package tar would hold a megabyte of what else there may be.
const maxArchiveHeaders = 128 << 10

// DecodeArchive reads the answer to a get-folder, and calls each with each entry as it comes. Success is an
// archive that has its end, and nothing but zeros after it, with which tar programs fill their last block. It
// reads r in small pieces and never ahead, so that r may bound what an entry's content isn't. The error of r
// or of each is returned as it is; everything else is domain.ErrInvalidReply.
func DecodeArchive(r io.Reader, each func(entry domain.ArchiveEntry, content io.Reader) error) error {
	guard := &archiveGuard{r: r}
	reader := tar.NewReader(guard)
	content := &archiveContent{reader, guard}
	for {
		guard.bound(maxArchiveHeaders)
		header, err := reader.Next()
		if err == io.EOF && guard.err == nil {
			return guard.rest()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // each sees to that
			return guard.wrap(err)
		}
		entry := archiveEntry(header)
		if entry.Unfit == unfitHoles { // of which nobody can tell how much is there
			guard.bound(0)
		} else {
			guard.unbound()
		}
		if err := each(entry, content); err != nil {
			return err
		}
		if entry.Unfit != unfitHoles { // what each has left
			if _, err := io.Copy(io.Discard, content); err != nil {
				return err
			}
		}
	}
}

const unfitHoles = "a file with holes"

// archiveEntry tells what an entry is. Links and whatever else could lead somewhere is unfit, and so is a
// file with holes: a few bytes could claim any size.
func archiveEntry(h *tar.Header) domain.ArchiveEntry {
	entry := domain.ArchiveEntry{
		Name:    strings.Clone(h.Name), // which may be a part of all its records
		Size:    h.Size,
		Failure: domain.FileFailure(h.PAXRecords[archiveError]),
	}
	for record := range h.PAXRecords { // of any type: package tar reads them so
		if strings.HasPrefix(record, "GNU.sparse.") {
			entry.Unfit = unfitHoles
			return entry
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		entry.Folder = true
	case tar.TypeLink, tar.TypeSymlink:
		entry.Unfit = "a link"
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		entry.Unfit = "a device or a FIFO"
	case tar.TypeGNUSparse:
		entry.Unfit = unfitHoles
	case tar.TypeXGlobalHeader:
		entry.Unfit = "a header for all others"
	default:
		entry.Unfit = fmt.Sprintf("of the unknown type %q", h.Typeflag)
	}
	return entry
}

// archiveGuard remembers how the archive's reader ended: package tar takes an archive that was cut between two
// entries for one that is over.
type archiveGuard struct {
	r    io.Reader
	next error // of r, once what came with it has been told
	err  error // as it was told
	left int64 // that may be read; negative is any number
}

var errArchiveHeaders = fmt.Errorf("%w: a folder's archive: headers of more than %d bytes", domain.ErrInvalidReply, maxArchiveHeaders)

func (g *archiveGuard) bound(most int64) { g.left = most }
func (g *archiveGuard) unbound()         { g.left = -1 }

func (g *archiveGuard) Read(p []byte) (n int, err error) {
	if g.left == 0 && len(p) > 0 && g.next == nil {
		g.next = errArchiveHeaders
	}
	if g.left >= 0 {
		p = p[:min(int64(len(p)), g.left)]
	}
	if g.next == nil {
		n, g.next = g.r.Read(p)
	}
	if g.left >= 0 {
		g.left -= int64(n)
	}
	if n == 0 {
		g.err = g.next
	}
	return n, g.err
}

// wrap tells an error of the reader from one of what it read.
func (g *archiveGuard) wrap(err error) error {
	switch {
	case g.err == io.EOF:
		err = io.ErrUnexpectedEOF
	case g.err != nil:
		return g.err
	}
	return fmt.Errorf("%w: a folder's archive: %w", domain.ErrInvalidReply, err)
}

// rest reads what follows the archive's end.
func (g *archiveGuard) rest() error {
	g.unbound()
	var block [512]byte
	for {
		n, err := g.Read(block[:])
		for _, c := range block[:n] {
			if c != 0 {
				return fmt.Errorf("%w: a folder's archive: more follows after its end", domain.ErrInvalidReply)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// archiveContent is an entry's content, whose errors are told apart as those of headers are.
type archiveContent struct {
	r     *tar.Reader
	guard *archiveGuard
}

func (c *archiveContent) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = c.guard.wrap(err)
	}
	return n, err
}
