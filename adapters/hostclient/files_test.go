package hostclient_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice/tests/contract"
)

// diskFile is an open file with the size that it was opened with. It counts what is read from it by
// Read, and may be changed in the midst of it.
type diskFile struct {
	*os.File
	size  int64
	reads atomic.Int64
}

func (f *diskFile) Size() int64 { return f.size }

func (f *diskFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.reads.Add(int64(n))
	return n, err
}

func openDisk(t *testing.T, size int) *diskFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &diskFile{File: file, size: int64(size)}
}

// Read and write copy each byte twice through user space, 32 KiB at a time; sendfile is twice as fast.
func TestFilesGoBySendfile(t *testing.T) {
	const size = 8 << 20
	peer := contract.NewPeer()
	client := connect(t, handler(peer), "tcp", "127.0.0.1:0")
	file := openDisk(t, size)
	if err := client.SendArtifact(context.Background(), "x", file); err != nil {
		t.Fatal(err)
	}
	if n := file.reads.Load(); n != 0 {
		t.Errorf("%d of %d bytes went through Read", n, size)
	}
}

// stalling is a host that reads a part of each body, calls change, and reads on.
func stalling(t *testing.T, change func(), got *atomic.Int64, failed *atomic.Bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.CopyN(io.Discard, r.Body, 1000)
		if err != nil {
			t.Errorf("the body's beginning: %v", err)
		}
		change()
		rest, err := io.Copy(io.Discard, r.Body)
		got.Store(n + rest)
		failed.Store(err != nil)
	})
}

func TestFilesThatChangeMeanwhile(t *testing.T) {
	const size = 64 << 20 // more than the sockets hold
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			var got atomic.Int64
			var failed atomic.Bool

			grown := openDisk(t, size)
			client := connect(t, stalling(t, func() { grown.WriteAt(make([]byte, 100), size) }, &got, &failed), network, address)
			if err := client.SendArtifact(context.Background(), "grown", grown); err != nil || got.Load() != size || failed.Load() {
				t.Errorf("a file that grew: %v; %d bytes came, failed: %v; want the %d that it had", err, got.Load(), failed.Load(), size)
			}

			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			shrunk := openDisk(t, size)
			client = connect(t, stalling(t, func() { shrunk.Truncate(size / 2) }, &got, &failed), network, address)
			if err := client.SendArtifact(context.Background(), "shrunk", shrunk); err == nil {
				t.Error("a file that shrank was sent without an error")
			}
			deadline := time.Now().Add(10 * time.Second)
			for !failed.Load() {
				if time.Now().After(deadline) {
					t.Fatal("the host took half a file for the whole")
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
}

func BenchmarkArtifact(b *testing.B) {
	const size = 256 << 20
	for _, network := range []string{"tcp", "unix"} {
		b.Run(network, func(b *testing.B) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(b.TempDir(), "s")
			}
			client := connect(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
			}), network, address)
			path := filepath.Join(b.TempDir(), "file")
			if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			for b.Loop() {
				file, err := os.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if err := client.SendArtifact(b.Context(), "x", &sizedFile{File: file, size: size}); err != nil {
					b.Fatal(err)
				}
				file.Close()
			}
		})
	}
}

type sizedFile struct {
	*os.File
	size int64
}

func (f *sizedFile) Size() int64 { return f.size }

func BenchmarkLog(b *testing.B) {
	client := connect(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
	}), "tcp", "127.0.0.1:0")
	log, err := client.OpenLog(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 64<<10)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, err := log.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
}
