//go:build linux

package threats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	apphost "github.com/hexworker/metaservice/app/host"
)

// HostSpec is what a host is started with.
type HostSpec struct {
	Network string // unix, or empty: tcp
	Guests  int    // 0 is 1: services in this one process, each with an address of its own
	Limits  metaservice.Limits
	Files   uint64 // RLIMIT_NOFILE; 0 leaves it
	Disk    int    // MiB of the disk that artifacts are kept on, which is a small one then; 0 is any. Root alone can have one
	Folder  string // set by startHost
}

// The files of a host, in its folder.
const (
	hostLog    = "host.log"  // its own, as text
	artifacts  = "artifacts" // the folder of its temporary files
	guestsLogs = "log%d"     // the log sink of each guest
)

// Host is a host as a service of net/rpc, told what to do by the test.
type Host struct {
	spec     HostSpec
	services []*metaservice.MetaService
	sinks    []*os.File
	counts   counts
	outcomes []chan metaservice.Outcome
	before   goleak.Option
	running  sync.WaitGroup
	life     context.Context
	end      context.CancelFunc
	collects []*apphost.Service // of Collect
	shells   shellTable
	peak     atomic.Int64
	watching atomic.Bool
}

// playHost is the process of a host.
func playHost() int {
	server := rpc.NewServer()
	if err := server.Register(&Host{before: goleak.IgnoreCurrent()}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server.ServeCodec(jsonrpc.NewServerCodec(stdio{os.Stdin, os.Stdout}))
	return 0
}

// Start starts the services and tells their addresses.
func (h *Host) Start(spec HostSpec, addresses *[]string) error {
	h.spec = spec
	if spec.Files > 0 {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: spec.Files, Max: spec.Files}); err != nil {
			return err
		}
	}
	logFile, err := os.Create(filepath.Join(spec.Folder, hostLog))
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := os.Mkdir(filepath.Join(spec.Folder, artifacts), 0o700); err != nil {
		return err
	}
	if spec.Disk > 0 { // in a namespace of mounts that ends with this process
		if err := syscall.Mount("threats", filepath.Join(spec.Folder, artifacts), "tmpfs", 0, fmt.Sprintf("size=%dm", spec.Disk)); err != nil {
			return err
		}
	}
	storage, err := metaservice.NewTemporaryStorage(filepath.Join(spec.Folder, artifacts))
	if err != nil {
		return err
	}
	h.life, h.end = context.WithCancel(context.Background())
	for guest := range max(spec.Guests, 1) {
		sink, err := os.Create(filepath.Join(spec.Folder, fmt.Sprintf(guestsLogs, guest)))
		if err != nil {
			return err
		}
		outcome := make(chan metaservice.Outcome, 1)
		service, err := metaservice.NewWithError([]string{"true"}, map[string]string{"SECRET": "hunter2"}, sink, nil,
			&metaservice.Environment{TemporaryStorage: storage, Logger: logger},
			metaservice.WithLimits(spec.Limits), metaservice.WithOutcome(func(o metaservice.Outcome) { outcome <- o }))
		if err != nil {
			return err
		}
		network, address := "tcp", "127.0.0.1:0"
		if spec.Network == "unix" {
			network, address = "unix", filepath.Join(spec.Folder, fmt.Sprintf("s%d", guest))
		}
		listener, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		h.services, h.sinks, h.outcomes = append(h.services, service), append(h.sinks, sink), append(h.outcomes, outcome)
		*addresses = append(*addresses, listener.Addr().String())
		h.running.Go(func() { service.Serve(h.life, countedListener{listener, &h.counts}) })
	}
	return nil
}

// Left is what a host has left behind.
type Left struct{ Things []string } // net/rpc's JSON can't tell a bare nil

// Close ends all of it, and tells what is left.
func (h *Host) Close(_ struct{}, left *Left) error {
	h.watching.Store(false)
	for _, service := range h.services {
		service.Close()
	}
	for _, service := range h.collects {
		service.Close()
	}
	h.end()
	h.running.Wait()
	h.shells.closeAll()
	look := func() []string {
		var found []string
		if err := goleak.Find(h.before, goleak.IgnoreAnyFunction("net/rpc.(*service).call")); err != nil {
			found = append(found, err.Error())
		}
		return append(found, h.stored()...)
	}
	deadline := time.Now().Add(5 * time.Second)
	for left.Things = look(); len(left.Things) > 0 && time.Now().Before(deadline); left.Things = look() {
	}
	return nil
}

// stored is what there is of artifacts, with a name or without one, and how many bytes.
func (h *Host) stored() []string {
	folder := filepath.Join(h.spec.Folder, artifacts)
	var found []string
	entries, _ := os.ReadDir(folder)
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, folder+"/") {
			found = append(found, target)
		}
	}
	return found
}

// Stored is what Host.stored finds, and the bytes on disk of all that is open.
func (h *Host) Stored(_ struct{}, stored *Stored) error {
	folder := filepath.Join(h.spec.Folder, artifacts)
	stored.Files = len(h.stored())
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, folder+"/") {
			if info, err := os.Stat(fd); err == nil {
				stored.Bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
	}
	return nil
}

// Stored is what a host keeps of artifacts.
type Stored struct {
	Files int
	Bytes int64
}

// Ask is what a guest is asked for.
type Ask struct {
	Guest  int
	Path   string
	Within time.Duration // of the caller's context; 0 is no limit
	Keep   bool          // of a list, the names
}

func (a Ask) context() (context.Context, context.CancelFunc) {
	if a.Within == 0 {
		return context.WithCancel(context.Background())
	}
	return context.WithTimeout(context.Background(), a.Within)
}

// Got is what became of an artifact.
type Got struct {
	Failure
	Size  int64
	Begin []byte // its first bytes, 64 KiB at most
	Took  time.Duration
}

// Artifact gets a file, and closes it.
func (h *Host) Artifact(ask Ask, got *Got) error {
	ctx, cancel := ask.context()
	defer cancel()
	begun := time.Now()
	file, err := h.services[ask.Guest].Artifact(ctx, ask.Path)
	got.Took, got.Failure = time.Since(begun), failure(err)
	if err != nil {
		return nil
	}
	defer file.Close()
	got.Begin = make([]byte, 64<<10)
	n, err := io.ReadFull(file, got.Begin)
	got.Begin = got.Begin[:n]
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	got.Size, err = file.Seek(0, io.SeekEnd)
	return err
}

// Listed is what became of a list.
type Listed struct {
	Failure
	Count   int
	Refused int
	Paths   []string // with Ask.Keep
	Bytes   int64    // of the names
	Took    time.Duration
}

// List lists a folder.
func (h *Host) List(ask Ask, listed *Listed) error {
	ctx, cancel := ask.context()
	defer cancel()
	begun := time.Now()
	listing, err := h.services[ask.Guest].Folder(ctx, ask.Path)
	listed.Took, listed.Failure = time.Since(begun), failure(err)
	listed.Count, listed.Refused = len(listing.Files), listing.Refused
	for _, file := range listing.Files {
		listed.Bytes += int64(len(file.Path))
		if ask.Keep {
			listed.Paths = append(listed.Paths, file.Path)
		}
	}
	runtime.KeepAlive(listing)
	return nil
}

// Kill ends the task.
func (h *Host) Kill(ask Ask, got *Got) error {
	ctx, cancel := ask.context()
	defer cancel()
	begun := time.Now()
	got.Failure = failure(h.services[ask.Guest].Kill(ctx))
	got.Took = time.Since(begun)
	return nil
}

// Ended is a task's outcome.
type Ended struct {
	Failure
	Status    string
	Succeeded bool
	Bytes     int64 // of its log
	Cut       int64
}

// Outcome waits for a task's outcome.
func (h *Host) Outcome(ask Ask, ended *Ended) error {
	ctx, cancel := ask.context()
	defer cancel()
	outcome, err := h.services[ask.Guest].Outcome(ctx)
	ended.Failure = failure(errors.Join(err, outcome.Err))
	ended.Status, ended.Succeeded = outcome.Status.String(), outcome.Succeeded()
	ended.Bytes, ended.Cut = outcome.Log.Bytes, outcome.Log.Cut
	return nil
}

// Usage is what a host has used.
type Usage struct {
	CPU        time.Duration // user and system
	Heap       int64         // of its heap and stacks what can be reached
	Peak       int64         // of its heap's objects since Watch, reachable or not
	FDs        int
	Goroutines int

	Accepted int64          // connections
	Open     int64          // of them, now
	Read     int64          // bytes
	Reads    int64          // calls
	Written  int64          // bytes
	Answers  map[string]int // by their status
}

// Usage tells what was used so far.
func (h *Host) Usage(_ struct{}, usage *Usage) error {
	runtime.GC()
	runtime.GC() // what the first one has put into pools' second chance
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	usage.Heap = int64(stats.HeapAlloc + stats.StackInuse)
	return h.Counts(struct{}{}, usage)
}

// Counts is Usage without the heap, which takes time to measure.
func (h *Host) Counts(_ struct{}, usage *Usage) error {
	var rusage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &rusage); err != nil {
		return err
	}
	usage.CPU = time.Duration(rusage.Utime.Nano() + rusage.Stime.Nano())
	usage.Peak = h.peak.Load()
	usage.Goroutines = runtime.NumGoroutine()
	fds, err := os.ReadDir("/proc/self/fd")
	usage.FDs = len(fds)
	h.counts.tell(usage)
	return err
}

// Watch looks at the heap every 2 ms from now on, for Usage.Peak; it tells what there is now. Memory that
// the kernel counts would tell of the race detector's, too.
func (h *Host) Watch(_ struct{}, now *int64) error {
	const name = "/memory/classes/heap/objects:bytes"
	read := func() int64 {
		sample := []metrics.Sample{{Name: name}}
		metrics.Read(sample)
		return int64(sample[0].Value.Uint64())
	}
	runtime.GC()
	runtime.GC()
	*now = read()
	h.peak.Store(*now)
	if h.watching.Swap(true) {
		return nil
	}
	h.running.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for h.watching.Load() {
			<-tick.C
			h.peak.Store(max(h.peak.Load(), read()))
		}
	})
	return nil
}

// counts is what went over a host's connections.
type counts struct {
	accepted, open, read, reads, written atomic.Int64

	mu      sync.Mutex // guards answers
	answers map[string]int
}

func (c *counts) tell(usage *Usage) {
	usage.Accepted, usage.Open = c.accepted.Load(), c.open.Load()
	usage.Read, usage.Reads, usage.Written = c.read.Load(), c.reads.Load(), c.written.Load()
	usage.Answers = make(map[string]int)
	c.mu.Lock()
	defer c.mu.Unlock()
	for status, n := range c.answers {
		usage.Answers[status] = n
	}
}

// countedListener counts what its connections do. To the server they are what they are without it.
type countedListener struct {
	net.Listener
	counts *counts
}

func (l countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.counts.accepted.Add(1)
	l.counts.open.Add(1)
	return &countedConn{Conn: conn, counts: l.counts}, nil
}

type countedConn struct {
	net.Conn
	counts *counts
	once   sync.Once
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.counts.read.Add(int64(n))
	c.counts.reads.Add(1)
	return n, err
}

// Write counts answers, too: net/http begins a write with each.
func (c *countedConn) Write(p []byte) (int, error) {
	if rest, ok := strings.CutPrefix(string(p[:min(len(p), 12)]), "HTTP/1.1 "); ok {
		c.counts.mu.Lock()
		if c.counts.answers == nil {
			c.counts.answers = make(map[string]int)
		}
		c.counts.answers[rest]++
		c.counts.mu.Unlock()
	}
	n, err := c.Conn.Write(p)
	c.counts.written.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.counts.open.Add(-1) })
	return c.Conn.Close()
}

func (c *countedConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func (c *countedConn) SyscallConn() (syscall.RawConn, error) {
	return c.Conn.(syscall.Conn).SyscallConn()
}
