package chiapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// bulk is the size from which on a body is worth a connection that is detached.
const bulk = 1 << 20

// artifact takes the answer to a get-artifact. A large one is taken off its connection: net/http would have it
// copied through this process, which costs as much again as all else.
func (h *handler) artifact(w http.ResponseWriter, r *http.Request, id domain.ActionID, body ports.Body) {
	reply := ports.ArtifactReply{Body: body, Size: r.ContentLength, Error: r.Header.Get(wire.HeaderError)}
	if reply.Size < bulk || reply.Error != "" {
		h.taken(w, r, h.api.Artifact(r.Context(), id, reply))
		return
	}
	conn, err := wire.Detach(w, r)
	if err != nil { // net/http will do
		h.taken(w, r, h.api.Artifact(r.Context(), id, reply))
		return
	}
	defer conn.Close() // where it isn't resumed
	rest := &bulkBody{conn: conn, used: wantedBy(r), left: reply.Size}
	reply.Body = rest
	err = h.api.Artifact(r.Context(), id, reply)
	if rest.left > 0 {
		conn.Header().Set("Connection", "close") // what is left of it is no request
	}
	h.taken(conn, r, err)
	conn.Resume()
}

// bulkBody is the body of a request whose connection is detached: a ports.BulkBody.
type bulkBody struct {
	conn wire.Detached
	used func() // that the app reads it
	left int64
}

func (b *bulkBody) Read(p []byte) (int, error) {
	b.used()
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.conn.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		err = io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *bulkBody) SetReadDeadline(t time.Time) error { return b.conn.SetReadDeadline(t) }

func (b *bulkBody) MoveTo(w io.ReaderFrom, most int64) (int64, error) {
	b.used()
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.conn.MoveTo(w, min(most, b.left))
	b.left -= n
	switch {
	case b.left == 0 && err == nil:
		err = io.EOF
	case b.left == 0: // nothing more was to be read
		err = fmt.Errorf("%w: %w", domain.ErrStorage, err)
	case err == nil, errors.Is(err, errors.ErrUnsupported):
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	case !b.conn.HungUp(): // one call reads here and writes there, and doesn't tell which of them failed
		err = fmt.Errorf("%w: %w", domain.ErrStorage, err)
	}
	return n, err
}

var _ ports.BulkBody = (*bulkBody)(nil)
