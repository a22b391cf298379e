package limits

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/uuids"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// counted is a ports.Folder that keeps nothing.
type counted struct{ bytes atomic.Int64 }

func (c *counted) File(string) ports.Storage { return c }

func (c *counted) Create(int64) (ports.Upload, error) { return dropped{c}, nil }

type dropped struct{ *counted }

func (d dropped) Write(p []byte) (int, error) {
	d.bytes.Add(int64(len(p)))
	return len(p), nil
}

func (dropped) Close() error { return nil }

func (dropped) Commit() (io.ReadSeekCloser, error) { return file{strings.NewReader("")}.seeker(), nil }

func (f file) seeker() io.ReadSeekCloser {
	return struct {
		io.ReadSeeker
		io.Closer
	}{f.Reader, f}
}

// Threat 9's other side: as many files in one archive as a list may have names, long ones, those that can't be
// sent among them.
func TestAnArchiveOfManyFilesMeetsNoLimit(t *testing.T) {
	files := 10_000
	if *contract.Long {
		files = int(domain.Defaults().ListEntries)
	}
	said := new(text)
	service, err := host.New(host.Config{IDs: uuids.Random{}, Execute: domain.Execute{Command: []string{"true"}},
		Logger: slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := hostclient.New(listener.Addr().String(), hostclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	silence := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- httpserver.Serve(ctx, listener, chiapi.New(service, silence), silence) }()
	defer func() {
		err := service.Close()
		cancel()
		if err := errors.Join(err, <-served); err != nil {
			t.Error(err)
		}
		client.Close()
	}()
	if _, err := client.Hello(t.Context(), domain.Hello{BootID: "1", Features: domain.Features{domain.FeatureTar}}); err != nil {
		t.Fatal(err)
	}
	ctxPolls, end := context.WithCancel(t.Context())
	defer end()
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		action, err := client.Poll(ctxPolls)
		if err == nil {
			err = client.SendArchive(ctxPolls, action.ID(), manyFiles(files))
		}
		if err != nil {
			t.Errorf("the archive: %v", err)
			service.Close()
		}
	}()
	target := new(counted)
	got := service.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, nil)
	<-polled
	if missing := files / 10; got.Files != files-missing || !errors.Is(got.Err, domain.ErrResourceNotFound) || target.bytes.Load() != int64(got.Files) {
		t.Errorf("%d of %d files came, with %d bytes: %v", got.Files, files-missing, target.bytes.Load(), got.Err)
	}
	if said := said.String(); said != "" {
		t.Errorf("a guest that did what it was asked for has met a limit:\n%s", said)
	}
}

// manyFiles are files of a byte, with long names that aren't ASCII; each tenth can't be opened.
func manyFiles(n int) func(yield func(ports.FolderFile, error) bool) {
	long := strings.Repeat("ü", 60)
	return func(yield func(ports.FolderFile, error) bool) {
		for i := range n {
			one := ports.FolderFile{Name: fmt.Sprint(long, "/", i), File: file{strings.NewReader("x")}}
			if i%10 == 0 {
				one.File, one.Failure = nil, domain.FailureDenied
			}
			if !yield(one, nil) {
				return
			}
		}
	}
}
