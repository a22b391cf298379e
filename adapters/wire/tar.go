package wire

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// archiveBlock is how much of an archive is gathered before it is written: with its chunk's frame it
	// fills the buffer of a guest's connection.
	archiveBlock = 127 << 10
	// archiveRead is how much of a file is read at a time. One that is no larger is read before anything of
	// it is sent, so that whatever goes wrong with it can still be told.
	archiveRead = 256 << 10
	// archiveBeat and archiveLeast are a list's filesBeat and filesLeast. Entries of the folder itself, which
	// say nothing, stand in for what isn't found yet.
	archiveBeat  = filesBeat
	archiveLeast = filesLeast
)

// maxArchiveHeaders is how much may come between an entry's content and the next entry: its headers, and the rest
// of a file with holes. A longest name takes 6 KiB; package tar would hold a megabyte of what else there may be.
const maxArchiveHeaders = 128 << 10

// archiveError is the record that tells why a file isn't there: its entry has no content.
const archiveError = "METASERVICE.error"

// ErrShrunk is a file that became shorter after a part of it was sent: the rest of the archive can't follow.
var ErrShrunk = errors.New("the file became shorter while it was sent")

// EncodeArchive writes the answer to a get-folder as the files come, and something each second even if none
// does. The first error of the sequence or of w ends it, and so does one of a file of which a part was sent;
// what is on the wire then has no end, so that nobody takes it for the whole. It uses w from one goroutine at
// a time, and no more once it has returned.
func EncodeArchive(w io.Writer, files iter.Seq2[ports.FolderFile, error]) error {
	e := &archiveEncoder{out: countedWriter{w: w}, block: make([]byte, archiveRead)}
	e.buf = bufio.NewWriterSize(&e.out, archiveBlock)
	e.tar = tar.NewWriter(e.buf)
	stop := keepPace(archiveBeat, e.beat)
	defer stop()
	for file, err := range files {
		if err != nil {
			return err
		}
		if err := e.add(file); err != nil {
			return err
		}
	}
	stop()
	if e.err != nil {
		return e.err
	}
	return errors.Join(e.tar.Close(), e.buf.Flush())
}

// archiveEncoder is an archive on its way out.
type archiveEncoder struct {
	mu    sync.Mutex // held while writing, too, and between an entry's header and its end
	out   countedWriter
	buf   *bufio.Writer
	tar   *tar.Writer
	block []byte
	err   error
}

// add writes one file. It is read before its header is made, as far as it goes into one block.
func (e *archiveEncoder) add(file ports.FolderFile) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	if file.File == nil {
		e.err = e.fail(file.Name, file.Failure)
		return e.err
	}
	size := file.File.Size()
	first := e.block
	if 0 < size && size < int64(len(first)) {
		first = first[:size]
	}
	n, err := io.ReadFull(file.File, first)
	switch {
	case err == io.EOF, err == io.ErrUnexpectedEOF: // it is shorter than it was, or one of the kernel's own
		e.err = e.entry(file.Name, first[:n], int64(n), nil)
	case err != nil:
		e.err = e.fail(file.Name, ports.FailureOf(err))
	case size <= 0:
		e.err = e.fail(file.Name, domain.FailureUnsized)
	default:
		e.err = e.entry(file.Name, first, size, file.File)
	}
	return e.err
}

// fail writes an entry that says why there is no content.
func (e *archiveEncoder) fail(name string, why domain.FileFailure) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, PAXRecords: map[string]string{archiveError: string(why)}}
	if !utf8.ValidString(name) {
		h.PAXRecords["hdrcharset"] = "BINARY"
	}
	return e.tar.WriteHeader(h)
}

// entry writes a file whose beginning was read, and whose rest is.
func (e *archiveEncoder) entry(name string, first []byte, size int64, rest io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}
	if !utf8.ValidString(name) {
		h.Format = tar.FormatGNU // the others' names are UTF-8
	}
	if err := e.tar.WriteHeader(h); err != nil {
		return err
	}
	if _, err := e.tar.Write(first); err != nil {
		return err
	}
	for left := size - int64(len(first)); left > 0; {
		n, err := rest.Read(e.block[:min(left, int64(len(e.block)))])
		if _, err := e.tar.Write(e.block[:n]); err != nil {
			return err
		}
		left -= int64(n)
		switch {
		case err == io.EOF && left > 0:
			return ErrShrunk
		case err != nil && err != io.EOF:
			return err
		}
	}
	return nil
}

// beat writes what there is, and makes it enough.
func (e *archiveEncoder) beat() (ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.err == nil && e.out.n+int64(e.buf.Buffered()) < archiveLeast {
		e.err = e.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755})
	}
	if e.err == nil {
		e.err = e.buf.Flush()
	}
	e.out.n = 0
	return e.err == nil
}

type countedWriter struct {
	w io.Writer
	n int64 // since the last beat
}

func (c *countedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// keepPace calls beat every so often, until it says no more or stop is called, which waits for the last beat
// and may be called twice.
func keepPace(every time.Duration, beat func() (ok bool)) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if !beat() {
					return
				}
			case <-over:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(over)
		<-done
	})
}

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
	entry := domain.ArchiveEntry{Name: h.Name, Size: h.Size, Failure: domain.FileFailure(h.PAXRecords[archiveError])}
	switch h.Typeflag {
	case tar.TypeReg:
		for record := range h.PAXRecords {
			if strings.HasPrefix(record, "GNU.sparse.") {
				entry.Unfit = unfitHoles
			}
		}
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
