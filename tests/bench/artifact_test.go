package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/tests/bench/figures"
)

const artifactSize = 1 << 30

// ancestorChunk is what the ancestor copies at a time, at both ends, without telling the length before.
const ancestorChunk = 32 << 10

// BenchmarkArtifact is a GiB out of the real guest-tools, until it is whole in a file of the host's: beside a bare
// client, in a process of its own as well, and a bare handler that does what a host must; beside the same two as the
// ancestor has them; and beside what the kernel can do where there is nothing else: sendfile into a socket, and splice
// from that into a file. All files are in the system's folder for temporary ones, without a name, and are dropped
// before the disk has them: its pace isn't measured, and neither is that of a hypervisor that gives memory back.
func BenchmarkArtifact(b *testing.B) {
	path := file(b, memoryFolder(b), artifactSize)
	exec.Command("sync").Run() // what others left to write is not to be written meanwhile; where it can't be had, it is
	folder := b.TempDir()      // which is where hosts keep them, unless they are told otherwise
	guest := newGuestProcess(b, nil)
	sender := newSender(b)
	kept := make(chan *os.File, 1)
	bare := serve(b, storing(b, folder, 1<<20, kept))
	ancestor := serve(b, storing(b, folder, ancestorChunk, kept))
	raw := spliced(b, folder, kept)
	timed := func(f func() io.Closer) float64 {
		warm(b, artifactSize+artifactSize/4)
		start := time.Now()
		came := f()
		took := time.Since(start)
		must(b, came.Close())
		return rate(artifactSize, took)
	}
	send := func(how, to string) func() float64 {
		return func() float64 {
			return timed(func() io.Closer {
				sender.send(b, how, url.Values{"path": {path}, "to": {to}})
				return <-kept
			})
		}
	}
	for range b.N {
		got := figures.InTurns(turns, func() float64 {
			return timed(func() io.Closer { return guest.artifact(b, path, artifactSize) })
		}, send("/file", bare), send("/chunks", ancestor), send("/raw", raw))
		figure := figures.Figure{What: "an artifact of 1 GiB", Unit: "MiB/s", Ours: got[0],
			Beside: "a bare client and handler", Limit: got[1], Wanted: 0.9}
		figure.Report(b)
		figure.What, figure.Beside, figure.Limit, figure.Wanted = "an artifact of 1 GiB, and the kernel", "sendfile into a socket, and splice from it into a file", got[3], 0
		figure.Report(b)
		figure.What, figure.Beside, figure.Limit, figure.Wanted = "an artifact of 1 GiB, and the ancestor's way", "copies in chunks of 32 KiB", got[2], 1.8
		figure.Report(b)
	}
}

// artifact brings a file out of the guest.
func (g *guestProcess) artifact(b *testing.B, path string, size int64) io.Closer {
	b.Helper()
	artifact, err := g.host.Artifact(b.Context(), path)
	must(b, err)
	came, err := artifact.Seek(0, io.SeekEnd)
	must(b, err)
	if came != size {
		b.Fatalf("%d bytes came", came)
	}
	return artifact
}

// storing is a handler that stores a body in a temporary file, so much at a time.
func storing(b *testing.B, folder string, block int, kept chan<- *os.File) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		temporary := temporaryFile(b, folder)
		if _, err := io.CopyBuffer(struct{ io.Writer }{temporary}, r.Body, make([]byte, block)); err != nil {
			b.Error(err)
		}
		kept <- temporary
	})
}

// spliced stores what comes of each connection in a temporary file, which takes it off the socket by itself.
func spliced(b *testing.B, folder string, kept chan<- *os.File) (address string) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	var over sync.WaitGroup
	b.Cleanup(func() {
		listener.Close()
		over.Wait()
	})
	over.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it is over
			}
			temporary := temporaryFile(b, folder)
			if _, err := temporary.ReadFrom(conn); err != nil {
				b.Error(err)
			}
			conn.Close() // which tells that it is there
			kept <- temporary
		}
	})
	return listener.Addr().String()
}

// temporaryFile is a file without a name.
func temporaryFile(b *testing.B, folder string) *os.File {
	temporary, err := os.CreateTemp(folder, "bare-*")
	if err == nil {
		err = os.Remove(temporary.Name())
	}
	if err != nil {
		b.Error(err)
	}
	return temporary
}

const (
	smallFiles = 10_000
	smallSize  = 1 << 10
	// parallel is how many files a folder's extraction fetches at a time.
	parallel = 8
)

// BenchmarkFolder is a folder of small files out of the real guest-tools, in one stream. It is held against what
// file by file takes at least: a bare client, in a process of its own as well, that makes for each file one request
// that is told its name, and one that brings it, which the handler reads, as many at a time as there are handlers.
func BenchmarkFolder(b *testing.B) {
	folder := memoryFolder(b)
	content := bytes.Repeat([]byte("x"), smallSize)
	for i := range smallFiles {
		must(b, os.WriteFile(filepath.Join(folder, strconv.Itoa(i)), content, 0o600))
	}
	result := finishedGuest(b)
	sender := newSender(b)
	var asked, came atomic.Int64
	bare := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprint(w, filepath.Join(folder, strconv.FormatInt(asked.Add(1)-1, 10)))
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) != smallSize {
			b.Errorf("%d bytes, %v", len(body), err)
		}
		came.Add(1)
	}))
	compare(b, figures.Figure{What: "10,000 files of 1 KiB", Unit: "files/s", Beside: "a bare client and handler, two requests for each file, 8 at a time", Wanted: 0.8}, func() float64 {
		var files atomic.Int64
		start := time.Now()
		must(b, result.ExtractFolder(b.Context(), folder, func(_ string, file io.ReadSeeker) error {
			files.Add(1)
			n, err := io.Copy(io.Discard, file)
			if n != smallSize && err == nil {
				err = fmt.Errorf("%d bytes", n)
			}
			return err
		}))
		took := time.Since(start)
		if files.Load() != smallFiles {
			b.Fatalf("%d files", files.Load())
		}
		return smallFiles / took.Seconds()
	}, func() float64 {
		asked.Store(0)
		came.Store(0)
		start := time.Now()
		sender.send(b, "/folder", url.Values{"to": {bare}})
		took := time.Since(start)
		if came.Load() != smallFiles {
			b.Fatalf("%d files", came.Load())
		}
		return smallFiles / took.Seconds()
	})
}

// sender is a bare client in a process of its own, which is told by requests what to send.
type sender struct {
	*relay
	client *http.Client
}

func newSender(b *testing.B) *sender {
	return &sender{newRelay(b, "bench-sender", nil), bareClient()}
}

// send has it send something, and returns when that has been answered.
func (s *sender) send(b *testing.B, what string, how url.Values) {
	b.Helper()
	request, err := http.NewRequest(http.MethodPost, "http://"+s.address+what+"?"+how.Encode(), nil)
	must(b, err)
	post(b, s.client, request)
}

// senderMain is the sender's process.
func senderMain(listener net.Listener) int {
	client := bareClient()
	mux := http.NewServeMux()
	handle := func(path string, f func(query url.Values) error) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if err := f(r.URL.Query()); err != nil {
				fmt.Fprintln(os.Stderr, "sender:", err)
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
	}
	handle("/file", func(query url.Values) error { return sendFile(client, query, false) })
	handle("/chunks", func(query url.Values) error { return sendFile(&http.Client{}, query, true) }) // which lets itself be paced
	handle("/raw", func(query url.Values) error { return sendRaw(query.Get("path"), query.Get("to")) })
	handle("/folder", func(query url.Values) error { return sendFolder(client, query.Get("to")) })
	err := httpserver.Serve(context.Background(), listener, mux, quiet)
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// sendRaw sends a file by sendfile, and waits until the other end has it.
func sendRaw(path, to string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := dialUnpaced(context.Background(), to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err = io.Copy(conn, f); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// sendFile posts a file: with its length before it, so that it leaves by sendfile, or in chunks, as the ancestor does.
func sendFile(client *http.Client, query url.Values, chunks bool) error {
	f, err := os.Open(query.Get("path"))
	if err != nil {
		return err
	}
	defer f.Close()
	var body io.Reader = f
	if chunks {
		body = struct{ io.Reader }{f}
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+query.Get("to"), body)
	if err != nil {
		return err
	}
	request.ContentLength = -1
	if !chunks {
		request.ContentLength = artifactSize
	}
	return answered(client.Do(request))
}

// answered reads an answer to its end.
func answered(response *http.Response, err error) error {
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close())
}

// sendFolder asks for names, and posts the files.
func sendFolder(client *http.Client, to string) error {
	var workers sync.WaitGroup
	errs := make([]error, parallel)
	for w := range parallel {
		workers.Go(func() {
			for range smallFiles / parallel {
				if err := sendNext(client, "http://"+to); err != nil {
					errs[w] = err
					return
				}
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

func sendNext(client *http.Client, to string) error {
	response, err := client.Get(to)
	if err != nil {
		return err
	}
	name, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	content, err := os.ReadFile(string(name))
	if err != nil {
		return err
	}
	return answered(client.Post(to, "application/octet-stream", bytes.NewReader(content)))
}
