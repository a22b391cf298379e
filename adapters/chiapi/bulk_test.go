package chiapi_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/tempfiles"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// serveTCP serves h on a socket until the test ends, and returns what dials.
func serveTCP(t *testing.T, h http.Handler) (dial func() net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var over sync.WaitGroup
	over.Go(func() { httpserver.Serve(ctx, listener, h, silence) })
	t.Cleanup(func() {
		cancel()
		over.Wait()
	})
	return func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// Large artifacts go another way than small ones: past net/http, off the socket. What they bring must be the same, and
// so must be what comes of all that can be wrong with them.
func TestLargeArtifactsComeWhole(t *testing.T) {
	const size = 5<<20 + 12345
	content := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz"), size/36+1)[:size]
	for name, test := range map[string]struct {
		size   int                     // as announced
		send   []byte                  // of it
		then   string                  // what comes right behind it
		limits domain.Limits           // of the host
		status int                     // zero is a connection that ends
		is     error                   // of the caller
		more   bool                    // the connection goes on
		header func(h http.Header)     // of the reply
		on     func(conn *net.TCPConn) // once all is sent
	}{
		"whole":                {size: size, send: content, status: 200, more: true},
		"and the next request": {size: size, send: content, then: "GET " + wire.PathPing + " HTTP/1.1\r\nHost: h\r\n\r\n", status: 200, more: true},
		"the last one":         {size: size, send: content, status: 200, header: func(h http.Header) { h.Set("Connection", "close") }},
		"too large":            {size: size, send: content[:100], limits: domain.Limits{ArtifactBytes: 1 << 20}, status: 413, is: &domain.LimitError{Limit: "ArtifactBytes", Max: 1 << 20, Unit: "bytes"}},
		"cut":                  {size: size, send: content[:3<<20], on: func(conn *net.TCPConn) { conn.CloseWrite() }, status: 400, is: domain.ErrBrokenReply},
		"reset":                {size: size, send: content[:3<<20], on: func(conn *net.TCPConn) { conn.SetLinger(0); conn.Close() }, is: domain.ErrBrokenReply},
		"not there":            {size: size, header: func(h http.Header) { h.Set(wire.HeaderError, wire.FileNotFound) }, status: 200, is: domain.ErrResourceNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			s, h := newService(t, func(c *host.Config) { c.Limits = test.limits; c.Limits.Tries = 1 })
			conn := serveTCP(t, h)()
			got := fetch(t.Context(), t, s)
			id := take(t, h).ID()
			var head bytes.Buffer
			headers := http.Header{}
			if test.header != nil {
				test.header(headers)
			}
			fmt.Fprintf(&head, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n", replyTo(id), test.size)
			_ = headers.Write(&head)
			head.WriteString("\r\n")
			_, err := io.Copy(conn, io.MultiReader(&head, bytes.NewReader(test.send), strings.NewReader(test.then)))
			if err != nil {
				t.Fatal(err)
			}
			if test.on != nil {
				test.on(conn.(*net.TCPConn))
			}
			from := bufio.NewReader(conn)
			response, err := http.ReadResponse(from, nil)
			if test.status == 0 {
				if err == nil {
					t.Errorf("it was answered: %s", response.Status)
				}
			} else if err != nil || response.StatusCode != test.status {
				t.Fatalf("the answer: %+v, %v", response, err)
			}
			switch f := <-got; {
			case test.is != nil && (f.err == nil || !errors.Is(f.err, test.is) && f.err.Error() != test.is.Error() && !strings.Contains(f.err.Error(), test.is.Error())):
				t.Errorf("the caller was told %v", f.err)
			case test.is == nil && (f.err != nil || f.content != string(content)):
				t.Errorf("%d bytes came, %v", len(f.content), f.err)
			}
			if test.status != 200 || test.is != nil {
				return
			}
			if test.then == "" {
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathPing)
			}
			response, err = http.ReadResponse(from, nil)
			if goesOn := err == nil && response.StatusCode == http.StatusOK; goesOn != test.more {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}

// An artifact that nobody wants any more leaves half a body behind. It must not be taken for requests: a file could
// hold one that resolves the task.
func TestWhatIsLeftOfALargeArtifactIsNoRequest(t *testing.T) {
	const size = 4 << 20
	request := "PUT " + wire.PathSuccess + " HTTP/1.1\r\nHost: h\r\n\r\n"
	content := []byte(strings.Repeat(request, size/len(request)+1))[:size]
	ctx, giveUp := context.WithCancel(t.Context())
	s, h := newService(t, nil)
	conn := serveTCP(t, h)()
	got := fetch(ctx, t, s)
	id := take(t, h).ID()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", replyTo(id), size)
	if _, err := conn.Write(content[:2<<20/len(request)*len(request)]); err != nil {
		t.Fatal(err)
	}
	giveUp()
	if f := <-got; !errors.Is(f.err, context.Canceled) {
		t.Errorf("the caller was told %v", f.err)
	}
	_, _ = conn.Write(content[2<<20/len(request)*len(request):]) // it may be closed by now
	_, _ = io.Copy(io.Discard, conn)                             // until it is
	if s.Resolved() {
		t.Error("a file's content has resolved the task")
	}
}

// What the storage has to say to the last bytes of a large artifact counts: a disk that was full at the very end was
// taken for a file that is whole.
func TestTheLastOfALargeArtifactCanBeRefused(t *testing.T) {
	const size = 2 << 20
	storage, err := tempfiles.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, h := newService(t, nil)
	got := make(chan error, 1)
	go func() {
		_, err := s.Fetch(t.Context(), "/file", fullAtLast{storage})
		got <- err
	}()
	conn := serveTCP(t, h)()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", replyTo(take(t, h).ID()), size)
	_, _ = conn.Write(make([]byte, size)) // it may be refused before
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && response.StatusCode == http.StatusOK {
		t.Error("the guest was told that all is well")
	}
	if err := <-got; !errors.Is(err, domain.ErrStorage) || !errors.Is(err, errFull) {
		t.Errorf("the caller was told %v", err)
	}
}

// fullAtLast is a storage that finds no room when all has come.
type fullAtLast struct{ ports.Storage }

var errFull = errors.New("no space left on device")

func (s fullAtLast) Create(size int64) (ports.Upload, error) {
	upload, err := s.Storage.Create(size)
	return &fullUpload{Upload: upload, left: size}, err
}

type fullUpload struct {
	ports.Upload
	left int64
}

func (u *fullUpload) Write(p []byte) (int, error) {
	n, err := u.Upload.Write(p)
	return n, u.after(int64(n), err)
}

func (u *fullUpload) ReadFrom(r io.Reader) (int64, error) {
	n, err := u.Upload.(io.ReaderFrom).ReadFrom(r)
	return n, u.after(n, err)
}

func (u *fullUpload) after(n int64, err error) error {
	if u.left -= n; u.left == 0 {
		return errFull
	}
	return err
}
