package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/tests/bench/figures"
)

// The bare handlers do what the host must do, and nothing else, with 1 MiB buffers.

func post(b *testing.B, client *http.Client, request *http.Request) {
	b.Helper()
	response, err := client.Do(request)
	must(b, err)
	_, err = io.Copy(io.Discard, response.Body)
	must(b, err)
	must(b, response.Body.Close())
	if response.StatusCode != http.StatusOK {
		b.Fatal(response.Status)
	}
}

const logSize = 1 << 30

// zeros is a command that prints logSize bytes.
func zeros() []string { return []string{"head", "-c", strconv.Itoa(logSize), "/dev/zero"} }

// counting is a sink.
type counting struct{ n int64 }

func (c *counting) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func BenchmarkLog(b *testing.B) {
	bare := &counting{}
	address := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.CopyBuffer(bare, r.Body, make([]byte, 1<<20))
		must(b, err)
	}))
	client := bareClient()
	compare(b, figures.Figure{What: "a command's log of 1 GiB", Unit: "MiB/s", Beside: "the same command's pipe as a bare client's body", Wanted: 0.8}, func() float64 {
		sink := &counting{}
		start := time.Now()
		p := newPair(b, zeros(), sink)
		outcome, err := p.host.Outcome(b.Context())
		must(b, err)
		took := time.Since(start)
		if !outcome.Succeeded() || sink.n != logSize {
			b.Fatalf("%+v, %d bytes", outcome, sink.n)
		}
		return rate(logSize, took)
	}, func() float64 {
		bare.n = 0
		start := time.Now()
		command := exec.Command(zeros()[0], zeros()[1:]...)
		output, err := command.StdoutPipe()
		must(b, err)
		must(b, command.Start())
		request, err := http.NewRequest(http.MethodPost, "http://"+address, output)
		must(b, err)
		post(b, client, request)
		must(b, command.Wait())
		took := time.Since(start)
		if bare.n != logSize {
			b.Fatalf("%d bytes came", bare.n)
		}
		return rate(logSize, took)
	})
}

const listFiles = 100_000

func BenchmarkList(b *testing.B) {
	p := newPair(b, []string{"true"}, io.Discard)
	root := filepath.Join(p.folder, "root")
	for i := range listFiles {
		folder := filepath.Join(root, strconv.Itoa(i/1000))
		if i%1000 == 0 {
			must(b, os.MkdirAll(folder, 0o700))
		}
		must(b, os.WriteFile(filepath.Join(folder, "a-file-with-a-name-"+strconv.Itoa(i)), nil, 0o600))
	}
	var files metaservice.Files
	address := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, err := io.CopyBuffer(struct{ io.Writer }{&body}, r.Body, make([]byte, 1<<20))
		must(b, err)
		files = metaservice.Files{}
		must(b, json.Unmarshal(body.Bytes(), &files))
	}))
	client := bareClient()
	compare(b, figures.Figure{What: "a list of 100,000 names", Unit: "names/ms", Beside: "a walk, encoding/json, and a bare client and handler", Wanted: 0.8}, func() float64 {
		start := time.Now()
		listing, err := p.host.Folder(b.Context(), root)
		must(b, err)
		took := time.Since(start)
		if len(listing.Files) != listFiles {
			b.Fatalf("%d files", len(listing.Files))
		}
		return listFiles / float64(took.Milliseconds())
	}, func() float64 {
		start := time.Now()
		var found metaservice.Files
		must(b, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				found.Files = append(found.Files, path)
			}
			return err
		}))
		body, err := json.Marshal(found)
		must(b, err)
		request, err := http.NewRequest(http.MethodPost, "http://"+address, bytes.NewReader(body))
		must(b, err)
		post(b, client, request)
		took := time.Since(start)
		if len(files.Files) != listFiles {
			b.Fatalf("%d files", len(files.Files))
		}
		return listFiles / float64(took.Milliseconds())
	})
}

const roundTrips = 2000

// BenchmarkRoundTrip measures an action from its asking to its answer's being in the caller's hands: a
// small file's. The limit is two requests, one after the other, that carry the same: an action one way,
// and the file, which is opened, and stored as a handler would, the other way.
func BenchmarkRoundTrip(b *testing.B) {
	p := newPair(b, []string{"true"}, io.Discard)
	path := filepath.Join(p.folder, "small")
	must(b, os.WriteFile(path, []byte("x"), 0o600))
	action, err := json.Marshal(metaservice.Action{ID: "2f1d1b46-7d4c-4b58-a1b4-6f1f5f3f6d0e", Type: "get-artifact", Path: path})
	must(b, err)
	address := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, err := w.Write(action)
			must(b, err)
			return
		}
		temporary, err := os.CreateTemp(p.folder, "bare-*")
		must(b, err)
		must(b, os.Remove(temporary.Name()))
		_, err = io.Copy(temporary, r.Body)
		must(b, err)
		must(b, temporary.Close())
	}))
	client := bareClient()
	compare(b, figures.Figure{What: "an action there and back", Unit: "µs", Beside: "two bare requests with the same content", Less: true, Wanted: 1.5}, func() float64 {
		return p50(func() {
			artifact, err := p.host.Artifact(b.Context(), path)
			must(b, err)
			must(b, artifact.Close())
		})
	}, func() float64 {
		return p50(func() {
			response, err := client.Get("http://" + address)
			must(b, err)
			var got metaservice.Action
			must(b, json.NewDecoder(response.Body).Decode(&got))
			must(b, response.Body.Close())
			f, err := os.Open(got.Path)
			must(b, err)
			reply, err := http.NewRequest(http.MethodPost, "http://"+address, f)
			must(b, err)
			reply.ContentLength = 1
			post(b, client, reply)
		})
	})
}

// BenchmarkEmptyRoundTrip is the strict form: an action without a file to open or to store (one that the
// guest answers with "not found"), beside two requests with nothing in them. The other end is a process of its
// own, as it is in life: the real guest-tools for ours, a server with a handler that does nothing for the
// limit.
func BenchmarkEmptyRoundTrip(b *testing.B) {
	guest := newGuestProcess(b, nil)
	missing := filepath.Join(b.TempDir(), "missing")
	address := newRelay(b, "bench-server", nil).address
	client := bareClient()
	compare(b, figures.Figure{What: "an action without a file", Unit: "µs", Beside: "two empty bare requests", Less: true, Wanted: 1.5}, func() float64 {
		return p50(func() {
			if _, err := guest.host.Artifact(b.Context(), missing); !errors.Is(err, metaservice.ErrResourceNotFound) {
				b.Fatal(err)
			}
		})
	}, func() float64 {
		return p50(func() {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				request, err := http.NewRequest(method, "http://"+address, nil)
				must(b, err)
				post(b, client, request)
			}
		})
	})
}

// p50 is the median time of f, in microseconds.
func p50(f func()) float64 {
	var times []time.Duration
	for range roundTrips {
		start := time.Now()
		f()
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds()) / 1e3
}
