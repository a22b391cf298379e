package wire

import (
	"archive/tar"
	"bufio"
	"errors"
	"io"
	"iter"
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
	// archiveApart is the size from which a file is left out, to be asked for by itself: then it leaves by
	// sendfile, which is twice as fast, and what befalls it befalls no other.
	archiveApart = 64 << 20
	// archiveBeat and archiveLeast are a list's filesBeat and filesLeast. Entries of the folder itself, which
	// say nothing, stand in for what isn't found yet.
	archiveBeat  = filesBeat
	archiveLeast = filesLeast
)

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
	if size >= archiveApart && utf8.ValidString(file.Name) { // no action can name another
		e.err = e.fail(file.Name, domain.FailureApart)
		return e.err
	}
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
		e.err = e.fail(file.Name, domain.FailureApart)
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
