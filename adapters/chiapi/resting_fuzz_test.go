package chiapi

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/wire"
)

// held is a connection of which there is what is to be read.
type held struct {
	wire.Detached
	rest []byte
}

func (h *held) Read(p []byte) (int, error) {
	if len(h.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

func (h *held) Unread(p []byte) { h.rest = append(bytes.Clone(p), h.rest...) }

func (h *held) Claim() func() { return func() {} }

// A log body that net/http never sees is read as net/http would: never as whole where that wouldn't, never with other
// bytes, and the next request begins where it would.
func FuzzRestingLog(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\n", "3\nabc\n0\n\n",
		"0\r\n\n", "0\r\nA: b\n\r\n", "5\r\nab", "x", "fffffffffffffffff\r\n", "0\r\n: b\r\n\r\n", "0\r\n A: b\r\n\r\n", "0\r\n\r\r\n",
		"1;" + strings.Repeat("a", 600) + "\r\nx\r\n0\r\n\r\n", "0\r\nA: " + strings.Repeat("b", 600) + "\r\n\r\n", "0\r\n" + strings.Repeat("A: b\r\n", 900) + "\r\n",
	} {
		f.Add([]byte(seed))
	}
	const head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	f.Fuzz(func(t *testing.T, data []byte) {
		from := bufio.NewReader(io.MultiReader(strings.NewReader(head), bytes.NewReader(data)))
		r, err := http.ReadRequest(from)
		if err != nil {
			t.Fatal(err)
		}
		want, wantErr := io.ReadAll(r.Body)
		wantRest, _ := io.ReadAll(from)

		conn := &held{rest: data}
		log := &restingLog{conn: conn, from: bufio.NewReaderSize(conn, logBuffer)}
		log.chunks = httputil.NewChunkedReader(log.from)
		got, gotErr := io.ReadAll(log)
		if _, again := log.Read(make([]byte, 1)); again == nil || gotErr == nil && again != io.EOF {
			t.Errorf("behind its end it says %v", again)
		}
		switch {
		case gotErr != nil: // it may be pickier: its lines are shorter
			if !bytes.HasPrefix(want, got) && !bytes.HasPrefix(got, want) {
				t.Errorf("%q came, and %q by net/http", got, want)
			}
		case wantErr != nil:
			t.Errorf("%q is whole, and by net/http it is %v", got, wantErr)
		case !bytes.Equal(got, want):
			t.Errorf("%q came, and %q by net/http", got, want)
		case !bytes.Equal(conn.rest, wantRest):
			t.Errorf("behind it is %q, and by net/http %q", conn.rest, wantRest)
		}
	})
}
