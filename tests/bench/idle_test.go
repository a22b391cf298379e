package bench

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
)

// BenchmarkIdleSandboxes prints what a sandbox costs whose task runs and says nothing: a poll is parked,
// and a log is open. Guest and host are in this process, so it is what both cost, without sockets.
func BenchmarkIdleSandboxes(b *testing.B) {
	for range b.N {
		idle(b, 1) // what is made once
		var growth []string
		var memory, goroutines float64
		for _, n := range []int{1, 10, 100, 1000} {
			memory, goroutines = idle(b, n)
			growth = append(growth, fmt.Sprintf("%d: %.1f KiB, %.1f", n, memory/1024, goroutines))
		}
		b.ReportMetric(memory, "B/sandbox")
		b.ReportMetric(goroutines, "goroutines/sandbox")
		fmt.Printf("%-28s memory and goroutines of each, by how many there are: %s\n", "idle sandboxes", strings.Join(growth, "; "))
	}
}

// idle starts n sandboxes, and tells what each of them takes.
func idle(b *testing.B, n int) (memory, goroutines float64) {
	b.Helper()
	ready := make(chan struct{}, n)
	machine := metaservicetest.NewMachine(metaservicetest.Run(func(ctx context.Context, task metaservicetest.Task) int {
		_, _ = io.WriteString(task.Log, "ready\n")
		ready <- struct{}{}
		<-ctx.Done()
		return 1
	}))
	engine, err := metaservice.NewEngine(metaservice.Config{TemporaryFolder: b.TempDir()}, &metaservice.Environment{Machine: machine})
	must(b, err)
	bytesBefore, goroutinesBefore := taken()
	for range n {
		builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{"command": ["idle"]}`), Log: io.Discard})
		must(b, err)
		_, err = builder.StartSandbox(context.Background())
		must(b, err)
	}
	for range n {
		<-ready
	}
	calm(b)
	bytesAfter, goroutinesAfter := taken()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must(b, engine.Dispose(ctx))
	calm(b)
	return (bytesAfter - bytesBefore) / float64(n), (goroutinesAfter - goroutinesBefore) / float64(n)
}

// taken is what is in use: of the heap what can be reached, and the stacks.
func taken() (memory, goroutines float64) {
	runtime.GC()
	runtime.GC() // what the first one has put into pools' second chance
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc + stats.StackInuse), float64(runtime.NumGoroutine())
}

// calm waits until goroutines neither come nor go.
func calm(b *testing.B) {
	b.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	over := time.After(time.Minute)
	for last, same := -1, 0; same < 10; {
		select {
		case <-tick.C:
		case <-over:
			b.Fatal("goroutines come and go")
		}
		if now := runtime.NumGoroutine(); now == last {
			same++
		} else {
			last, same = now, 0
		}
	}
}
