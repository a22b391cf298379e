//go:build unix

package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/guestfiles"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

func init() { roles["bench-host"], roles["bench-guests"] = hostMain, guestsMain }

// hostMain is a host with as many guests as it is told, which are elsewhere.
func hostMain(listener net.Listener) int {
	var lines lineCounter
	addresses := make(chan string, 1)
	engine, err := listeningEngine("", func(address string) { addresses <- address })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mux := http.NewServeMux()
	mux.Handle("/bare", answerer(func(n int) (any, error) { return serveBare(n, &lines) }))
	mux.Handle("/start", answerer(func(n int) (any, error) {
		var all []string
		for range n {
			builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{"command": ["idle"]}`), Log: &lines})
			if err != nil {
				return nil, err
			}
			if _, err := builder.StartSandbox(context.Background()); err != nil {
				return nil, err
			}
			all = append(all, <-addresses)
		}
		return all, nil
	}))
	mux.Handle("/usage", answerer(func(any) (any, error) {
		return taken{Lines: lines.n.Load(), CPU: ownCPU()}, nil
	}))
	mux.Handle("/taken", answerer(func(any) (any, error) {
		calm()
		return takenNow(lines.n.Load())
	}))
	err = httpserver.Serve(context.Background(), listener, mux, quiet)
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// serveBare serves so many guests with nothing but net/http: what they ask is answered by rote, a log is read, and
// polls are held.
func serveBare(n int, log io.Writer) (addresses []string, err error) {
	run := wire.EncodeExecute(domain.Execute{Command: []string{"idle"}})
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, listener.Addr().String())
		go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case wire.PathExecute:
				w.Write(run)
			case wire.PathLog:
				io.CopyBuffer(struct{ io.Writer }{log}, r.Body, make([]byte, 512))
			case wire.PathPoll:
				hold := time.NewTimer(domain.MaxHold)
				defer hold.Stop()
				select {
				case <-hold.C:
					w.Write(wire.EncodeAction(domain.Action{}))
				case <-r.Context().Done():
				}
			case wire.PathHello:
				w.WriteHeader(http.StatusNotFound)
				w.Write(wire.EncodeError(&domain.Error{Code: domain.CodeNoSuchEndPoint}))
			}
		}))
	}
	return addresses, nil
}

// lineCounter is a log that counts lines.
type lineCounter struct{ n atomic.Int64 }

func (l *lineCounter) Write(p []byte) (int, error) {
	l.n.Add(int64(bytes.Count(p, []byte{'\n'})))
	return len(p), nil
}

// ownCPU is the time that this process has used, in seconds.
func ownCPU() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // of these arguments it never is
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func takenNow(lines int64) (taken, error) {
	runtime.GC()         // what is in pools gets its second chance
	debug.FreeOSMemory() // and here loses it
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return taken{}, err
	}
	pages, err := strconv.ParseFloat(string(bytes.Fields(status)[1]), 64)
	return taken{
		Memory: float64(stats.HeapAlloc + stats.StackInuse), Resident: pages * float64(os.Getpagesize()),
		Goroutines: float64(runtime.NumGoroutine()), Lines: lines, CPU: ownCPU(),
	}, err
}

// calm waits until goroutines neither come nor go, for a while at most: what rests does so after a quarter of a
// second.
func calm() {
	for last, same, tries := -1, 0, 0; same < 60 && tries < 2000; tries++ {
		time.Sleep(10 * time.Millisecond)
		if now := runtime.NumGoroutine(); now == last {
			same++
		} else {
			last, same = now, 0
		}
	}
}

// guestsMain is the guests of a host: real ones, but for the processes of their tasks, of which there are none.
func guestsMain(listener net.Listener) int {
	idlers := idlers{talk: new(atomic.Bool), over: make(chan struct{})}
	var clients []*hostclient.Client
	mux := http.NewServeMux()
	mux.Handle("/start", answerer(func(addresses []string) (any, error) {
		for _, address := range addresses {
			client, err := startIdle(address, idlers)
			if err != nil {
				return nil, err
			}
			clients = append(clients, client)
		}
		return nil, nil
	}))
	mux.Handle("/talk", answerer(func(on bool) (any, error) {
		idlers.talk.Store(on)
		return nil, nil
	}))
	mux.Handle("/end", answerer(func(any) (any, error) {
		close(idlers.over)
		return nil, nil
	}))
	mux.Handle("/hangup", answerer(func(any) (any, error) {
		for _, client := range clients {
			client.Close() // the connections that are kept for nothing
		}
		return nil, nil
	}))
	err := httpserver.Serve(context.Background(), listener, mux, quiet)
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// startIdle starts a guest that lives as long as its process.
func startIdle(address string, processes ports.Processes) (*hostclient.Client, error) {
	client, err := hostclient.New(address, hostclient.Options{})
	if err != nil {
		return nil, err
	}
	files, err := guestfiles.New("/")
	if err != nil {
		return nil, err
	}
	tools, err := guest.New(guest.Config{Host: client, Files: files, Processes: processes, BootID: address})
	if err != nil {
		return nil, err
	}
	go tools.Run(context.Background())
	return client, nil
}

// idlers are processes that print a line, then one every second while there is talk, and end together.
type idlers struct {
	talk *atomic.Bool
	over chan struct{}
}

func (i idlers) Start(ports.ProcessSpec) (ports.Process, error) {
	output, w := io.Pipe()
	go func() { // ends with the process, or with the one that this is in
		defer w.Close()
		say := func() {
			_, _ = io.WriteString(w, "a line of a usual length, as programs print them when they are at work\n")
		}
		say()
		time.Sleep(rand.N(time.Second)) // they don't talk in chorus
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-i.over:
				return
			}
			if i.talk.Load() {
				say()
			}
		}
	}()
	return idler{output, i.over}, nil
}

type idler struct {
	output io.Reader
	over   chan struct{}
}

func (i idler) Output() io.Reader { return i.output }

func (i idler) Wait(ctx context.Context) (domain.Report, error) {
	select {
	case <-i.over:
		return domain.Report{Reason: domain.ReasonExited}, nil
	case <-ctx.Done():
		return domain.Report{}, context.Cause(ctx)
	}
}

func (i idler) Terminate() error { return nil }

func (i idler) Kill(context.Context, time.Duration) ([]ports.Survivor, error) { return nil, nil }

func (i idler) Close() error { return nil }
