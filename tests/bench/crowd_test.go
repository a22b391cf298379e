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
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

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

// calm waits until goroutines neither come nor go, for a while at most.
func calm() {
	for last, same, tries := -1, 0, 0; same < 20 && tries < 2000; tries++ {
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
	var talk atomic.Bool
	mux := http.NewServeMux()
	mux.Handle("/start", answerer(func(addresses []string) (any, error) {
		for _, address := range addresses {
			if err := startIdle(address, &talk); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}))
	mux.Handle("/talk", answerer(func(on bool) (any, error) {
		talk.Store(on)
		return nil, nil
	}))
	err := httpserver.Serve(context.Background(), listener, mux, quiet)
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// startIdle starts a guest that lives as long as its process.
func startIdle(address string, talk *atomic.Bool) error {
	client, err := hostclient.New(address, hostclient.Options{})
	if err != nil {
		return err
	}
	files, err := guestfiles.New("/")
	if err != nil {
		return err
	}
	tools, err := guest.New(guest.Config{Host: client, Files: files, Processes: idlers{talk}, BootID: address})
	if err != nil {
		return err
	}
	go tools.Run(context.Background())
	return nil
}

// idlers are processes that print a line, and then one every second while there is talk.
type idlers struct{ talk *atomic.Bool }

func (i idlers) Start(ports.ProcessSpec) (ports.Process, error) {
	output, w := io.Pipe()
	go func() { // ends with the process that this is in
		say := func() {
			_, _ = io.WriteString(w, "a line of a usual length, as programs print them when they are at work\n")
		}
		say()
		time.Sleep(rand.N(time.Second)) // they don't talk in chorus
		for range time.Tick(time.Second) {
			if i.talk.Load() {
				say()
			}
		}
	}()
	return idler{output}, nil
}

type idler struct{ output io.Reader }

func (i idler) Output() io.Reader { return i.output }

func (i idler) Wait(ctx context.Context) (domain.Report, error) {
	<-ctx.Done()
	return domain.Report{}, context.Cause(ctx)
}

func (i idler) Terminate() error { return nil }

func (i idler) Kill(context.Context, time.Duration) ([]ports.Survivor, error) { return nil, nil }

func (i idler) Close() error { return nil }
