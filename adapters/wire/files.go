package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/hexworker/metaservice/domain"
)

// Files is the answer to a list-folder, as a value. Both programs stream it instead: a folder may
// have a million files.
type Files struct {
	Files    []string `json:"files"`
	NotFound bool     `json:"notFound"`
}

const (
	// filesBlock is how much of a list is gathered before it is written.
	filesBlock = 64 << 10
	// filesBeat is how often a list that takes its time writes what it has, and filesLeast how much that
	// is at least: newlines, which JSON allows between names, stand in for what isn't found yet. A host
	// gives up who sends less than 1 KiB/s, and a large tree may have few files.
	filesBeat  = time.Second
	filesLeast = 2 << 10
)

// EncodeFiles writes the answer to a list-folder as the names come, and something each second even if none
// does. The first error of the sequence or of w ends it, and leaves what is on the wire invalid, so that
// nobody takes half a list for the whole. It uses w from one goroutine at a time, and no more once it has
// returned.
func EncodeFiles(w io.Writer, names iter.Seq2[string, error]) error {
	e := &filesEncoder{w: w, buf: make([]byte, 0, filesBlock+domain.MaxPath)}
	e.buf = append(e.buf, `{"files":[`...)
	stop := keepPace(filesBeat, e.beat)
	defer stop()
	first := true
	for name, err := range names {
		if err != nil {
			return err
		}
		if err := e.add(name, first); err != nil {
			return err
		}
		first = false
	}
	stop()
	if e.err != nil {
		return e.err
	}
	_, err := w.Write(append(e.buf, `],"notFound":false}`...))
	return err
}

// filesEncoder is a list on its way out.
type filesEncoder struct {
	mu   sync.Mutex // held while writing, too: what finds names waits meanwhile, as it should
	w    io.Writer
	buf  []byte // ends where a newline may follow
	sent int    // since the last beat
	err  error
}

func (e *filesEncoder) add(name string, first bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	if !first {
		e.buf = append(e.buf, ',')
	}
	// A name that isn't UTF-8 can't be told in JSON: its odd bytes become U+FFFD (and err says
	// so), the host then asks for a file of that name, and is told that there is none.
	e.buf, _ = jsontext.AppendQuote(e.buf, name)
	if len(e.buf) >= filesBlock {
		e.write()
	}
	return e.err
}

func (e *filesEncoder) write() {
	_, e.err = e.w.Write(e.buf)
	e.sent += len(e.buf)
	e.buf = e.buf[:0]
}

// beat writes what there is, and makes it enough.
func (e *filesEncoder) beat() (ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return false
	}
	for e.sent+len(e.buf) < filesLeast {
		e.buf = append(e.buf, '\n')
	}
	if len(e.buf) > 0 {
		e.write()
	}
	e.sent = 0
	return e.err == nil
}

// EncodeFilesNotFound is the answer to a list-folder whose folder can't be walked.
func EncodeFilesNotFound() []byte { return []byte(`{"files":[],"notFound":true}`) }

const (
	// maxToken is how much of a list may come without a token ending: a longest path in which every
	// byte is written as \u00XX, and what the parser reads ahead.
	maxToken = 6*domain.MaxPath + 256<<10
	// maxDepth is how deep what we don't know may be nested.
	maxDepth = 32
)

// DecodeFiles reads the answer to a list-folder, and calls add with each name as it comes, so that
// what is kept of it is add's business, and never more than a token is held here. The error of r or of
// add is returned as it is; everything else is domain.ErrInvalidReply.
func DecodeFiles(r io.Reader, add func(name string) error) (notFound bool, err error) {
	guard := &tokenGuard{r: r, left: maxToken}
	d := &filesDecoder{
		guard: guard,
		// The parser must not remember the names of fields, of which a guest may send any number.
		dec: jsontext.NewDecoder(guard, jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)),
		add: add,
	}
	if err := d.object(); err != nil {
		return false, err
	}
	if _, err := d.dec.ReadToken(); err != io.EOF {
		if err == nil {
			err = errors.New("more follows after the object")
		}
		return false, d.wrap(err)
	}
	if !d.sawFiles && !d.notFound {
		return false, d.wrap(errors.New(`the field "files" is missing`))
	}
	return d.notFound, nil
}

type filesDecoder struct {
	guard    *tokenGuard
	dec      *jsontext.Decoder
	add      func(string) error
	sawFiles bool
	notFound bool
}

// wrap tells an error of the reader from one of what it read.
func (d *filesDecoder) wrap(err error) error {
	if d.guard.err != nil {
		return d.guard.err
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		err = syntactic.Err // without the place by its names, which are the guest's and come as they are
	}
	return fmt.Errorf("%w: a folder's list at byte %d: %w", domain.ErrInvalidReply, d.dec.InputOffset(), err)
}

func (d *filesDecoder) token() (jsontext.Token, error) {
	token, err := d.dec.ReadToken()
	d.guard.left = maxToken
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return jsontext.Token{}, d.wrap(err)
	}
	return token, nil
}

func (d *filesDecoder) object() error {
	token, err := d.token()
	if err != nil {
		return err
	}
	if token.Kind() != '{' {
		return d.wrap(fmt.Errorf("it must be an object, it is %s", token.Kind()))
	}
	for {
		token, err := d.token()
		if err != nil {
			return err
		}
		if token.Kind() == '}' {
			return nil
		}
		switch token.String() {
		case "files":
			err = d.files()
		case "notFound":
			err = d.flag()
		default:
			err = d.skip()
		}
		if err != nil {
			return err
		}
	}
}

func (d *filesDecoder) files() error {
	if d.sawFiles {
		return d.wrap(errors.New(`the field "files" is there twice`))
	}
	d.sawFiles = true
	token, err := d.token()
	if err != nil {
		return err
	}
	switch token.Kind() {
	case 'n': // an old guest's empty list
		return nil
	case '[':
	default:
		return d.wrap(fmt.Errorf(`"files" must be an array, it is %s`, token.Kind()))
	}
	for {
		token, err := d.token()
		if err != nil {
			return err
		}
		switch token.Kind() {
		case ']':
			return nil
		case '"':
			if err := d.add(token.String()); err != nil {
				return err
			}
		default:
			return d.wrap(fmt.Errorf(`"files" must hold strings, it holds %s`, token.Kind()))
		}
	}
}

func (d *filesDecoder) flag() error {
	token, err := d.token()
	if err != nil {
		return err
	}
	switch token.Kind() {
	case 't', 'f':
		d.notFound = token.Bool()
		return nil
	}
	return d.wrap(fmt.Errorf(`"notFound" must be true or false, it is %s`, token.Kind()))
}

// skip passes over a value that we don't know, token by token: it may be as large as the body.
func (d *filesDecoder) skip() error {
	base := d.dec.StackDepth()
	for {
		if _, err := d.token(); err != nil {
			return err
		}
		switch depth := d.dec.StackDepth(); {
		case depth == base:
			return nil
		case depth > base+maxDepth:
			return d.wrap(fmt.Errorf("values are nested more than %d deep", maxDepth))
		}
	}
}

// tokenGuard keeps the parser from buffering one endless token, and remembers the reader's error.
//
// Of a run of newlines it passes the first on alone: the parser would keep them all until the next token,
// and a guest that takes long to find a name sends many. One is enough to end whatever it may stand in.
type tokenGuard struct {
	r       io.Reader
	left    int
	newline bool // the last byte was one
	err     error
}

var errLongToken = fmt.Errorf("%w: a folder's list: a name or value of more than %d bytes", domain.ErrInvalidReply, 6*domain.MaxPath)

func (g *tokenGuard) Read(p []byte) (int, error) {
	if g.left <= 0 {
		g.err = errLongToken
		return 0, g.err
	}
	for {
		n, err := g.r.Read(p[:min(len(p), 64<<10)])
		n = g.squeeze(p[:n])
		g.left -= n
		if err != nil && err != io.EOF {
			g.err = err
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// squeeze takes newlines that follow another out of p, and returns how much is left.
func (g *tokenGuard) squeeze(p []byte) int {
	if bytes.IndexByte(p, '\n') < 0 {
		g.newline = g.newline && len(p) == 0
		return len(p)
	}
	n := 0
	for _, c := range p {
		if c == '\n' && g.newline {
			continue
		}
		g.newline = c == '\n'
		p[n] = c
		n++
	}
	return n
}
