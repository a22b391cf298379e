package bench

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/guestfiles"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/tests/bench/figures"
)

// turns is how often each is measured, one after the other.
const turns = 15

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "tree-shim" {
		os.Exit(processes.ShimMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		os.Exit(playRole(roles[os.Args[1]]))
	}
	code := m.Run()
	removeTools()
	os.Exit(code)
}

var quiet = slog.New(slog.DiscardHandler)

// compare measures ours and the limit of a figure in turns, and reports it.
func compare(b *testing.B, figure figures.Figure, ours, limit func() float64) {
	b.Helper()
	for range b.N {
		got := figures.InTurns(turns, ours, limit)
		figure.Ours, figure.Limit = got[0], got[1]
		figure.Report(b)
	}
}

// bareClient is net/http's, whose connections are paced no more than ours.
func bareClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, network, address string) (net.Conn, error) { return dialUnpaced(ctx, address) },
		MaxIdleConnsPerHost: 64,
	}}
}

func dialUnpaced(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		wire.DontPace(conn)
	}
	return conn, err
}

// memoryFolder is a folder whose files are in memory, where the system has one: the disk's pace is not
// what is measured.
func memoryFolder(b *testing.B) string {
	b.Helper()
	folder, err := os.MkdirTemp("/dev/shm", "metaservice-bench-*")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

// pair is our guest and our host, with a guest that runs command to begin with.
type pair struct {
	host   *metaservice.MetaService
	client *hostclient.Client
	folder string
}

func newPair(b *testing.B, command []string, log io.Writer) *pair {
	b.Helper()
	folder := memoryFolder(b)
	storage, err := metaservice.NewTemporaryStorage(folder)
	must(b, err)
	host := metaservice.New(command, nil, log, nil, &metaservice.Environment{TemporaryStorage: storage})
	address := serve(b, host)

	client, err := hostclient.New(address, hostclient.Options{})
	must(b, err)
	files, err := guestfiles.New(folder)
	must(b, err)
	starter, err := processes.New(processes.Config{Shim: []string{self(b), "tree-shim"}})
	must(b, err)
	tools, err := guest.New(guest.Config{
		Host: client, Files: files, Processes: starter, BootID: "bench",
		Environ: os.Environ(), Dir: folder,
	})
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tools.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-ended
		host.Close()
		client.Close()
	})
	return &pair{host: host, client: client, folder: folder}
}

func self(b *testing.B) string {
	b.Helper()
	path, err := os.Executable()
	must(b, err)
	return path
}

// serve serves a handler on loopback, on the server that a host has, until the benchmark ends.
func serve(b *testing.B, handler http.Handler) (address string) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- httpserver.Serve(ctx, listener, handler, quiet) }()
	b.Cleanup(func() {
		cancel()
		<-ended
	})
	return listener.Addr().String()
}

// file makes a file of so many bytes that are no hole.
func file(b *testing.B, folder string, size int64) string {
	b.Helper()
	path := filepath.Join(folder, "file")
	f, err := os.Create(path)
	must(b, err)
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for written := int64(0); written < size; written += int64(len(block)) {
		_, err := f.Write(block)
		must(b, err)
	}
	must(b, f.Close())
	return path
}

// rate is MiB/s.
func rate(bytes int64, took time.Duration) float64 {
	return float64(bytes) / (1 << 20) / took.Seconds()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
