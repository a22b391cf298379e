package chiapi

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"slices"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// restingPoll is a poll that has waited for a while, and is likely to wait on: most guests do nothing else. Its
// connection is detached, so that it costs its host one goroutine and no buffer.
type restingPoll struct {
	poll    ports.Poll
	conn    wire.Detached
	asked   func()
	release func() // of the connection, where it is claimed
}

// newRestingPoll takes over what the poll's request has.
func newRestingPoll(poll ports.Poll, conn wire.Detached, entry *entry) *restingPoll {
	p := &restingPoll{poll, conn, entry.asked, entry.release}
	entry.release = nil
	return p
}

// serve answers the poll.
func (p *restingPoll) serve() {
	if p.release != nil {
		defer p.release()
	}
	defer p.conn.Close() // where it isn't resumed
	defer p.poll.Leave() // where nothing is delivered
	p.poll.Notify(p.conn.Wake)
	if err := p.conn.Await(); err != nil {
		return // it hung up
	}
	if p.poll.Deliver(p.deliver) == nil {
		p.conn.Resume()
	}
}

func (p *restingPoll) deliver(action domain.Action) error {
	if p.conn.HungUp() { // the kernel would take the answer, and drop it
		return errHungUp
	}
	if err := respond(p.conn, http.StatusOK, wire.EncodeAction(action)); err != nil {
		return err
	}
	if action.Kind() != domain.KindNone {
		p.asked()
		p.conn.Claim()()
	}
	return nil
}

// logBuffer is what is read of a log's connection at a time, unless whoever reads wants more. What prints a line now and
// then is to cost little more than a goroutine.
const logBuffer = 512

// restLog takes a log body off its connection, as long as it may last, and tells whether it does so.
func (h *handler) restLog(w http.ResponseWriter, r *http.Request) bool {
	if !slices.Equal(r.TransferEncoding, []string{"chunked"}) { // it says how long it is, and won't last
		return false
	}
	conn, err := wire.Detach(w, r)
	if err != nil {
		return false
	}
	entry := entryOf(r)
	log := &restingLog{handler: h, conn: conn, release: entry.release}
	entry.release = nil
	go log.serve() // ends with the body; the server waits for it
	return true
}

// restingLog is a log body: most of the time nothing comes of it, for as long as a task runs.
type restingLog struct {
	*handler
	conn    wire.Detached
	release func() // of the connection, once it is claimed; nil before
	from    *bufio.Reader
	chunks  io.Reader
	over    error // what ended it; nil before
}

// serve reads the body, and answers it.
func (l *restingLog) serve() {
	defer l.conn.Close() // where it isn't resumed
	defer func() {
		if l.release != nil {
			l.release()
		}
	}()
	l.from = bufio.NewReaderSize(l.conn, logBuffer)
	l.chunks = httputil.NewChunkedReader(l.from)
	err := l.api.Log(l.conn.Context(), l)
	if err == nil || l.refuseLog(l.conn, err) {
		l.conn.Resume()
	}
}

// maxTrailers is how many bytes may come behind a body: fields that nobody asked for.
const maxTrailers = 4 << 10

// Read implements io.Reader. It claims the connection: the app has a limit of its own on log bodies.
func (l *restingLog) Read(p []byte) (int, error) {
	if l.release == nil {
		l.release = l.conn.Claim()
	}
	if l.over != nil {
		return 0, l.over
	}
	n, err := l.chunks.Read(p)
	if err == io.EOF {
		err = l.end()
	}
	l.over = err
	return n, err
}

// end reads what is behind the last chunk: RFC 9112, section 7.1.2. The next request begins after it. It takes what
// net/http does, whose lines end with CRLF here.
func (l *restingLog) end() error {
	var trailers bytes.Buffer
	for trailers.Len() <= maxTrailers {
		piece, err := l.from.ReadSlice('\n')
		trailers.Write(piece)
		switch all := trailers.Bytes(); {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		case !bytes.HasSuffix(all, crlf):
			return errTrailers
		case len(all) > len(crlf) && !bytes.HasSuffix(all, slices.Concat(crlf, crlf)):
			continue
		case len(all) > len(crlf):
			if _, err := textproto.NewReader(bufio.NewReader(&trailers)).ReadMIMEHeader(); err != nil {
				return err
			}
		}
		next, _ := l.from.Peek(l.from.Buffered()) // it is there
		l.conn.Unread(next)
		return io.EOF
	}
	return errTrailers
}

var crlf = []byte("\r\n")

var errTrailers = errors.New("what comes behind the body is too much, or no fields")
