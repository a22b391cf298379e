package bench

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/listenmachine"
	"github.com/hexworker/metaservice/tests/bench/figures"
)

// finishedGuest is what is left when a task has succeeded in the real guest-tools, which are still there.
func finishedGuest(b *testing.B) metaservice.ResultSet {
	b.Helper()
	at := make(chan string, 1)
	engine := newListeningEngine(b, func(address string) { at <- address })
	builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{"command": ["true"]}`)})
	must(b, err)
	sandbox, err := builder.StartSandbox(b.Context())
	must(b, err)
	startTools(b, <-at, b.TempDir())
	result, err := sandbox.WaitForResult(b.Context())
	must(b, err)
	if !result.Success() {
		b.Fatal("the task has failed")
	}
	b.Cleanup(func() { result.Dispose() })
	return result
}

// newListeningEngine is an engine whose guests are started by somebody else, who is told where to call.
func newListeningEngine(b *testing.B, listening func(address string)) metaservice.Engine {
	b.Helper()
	engine, err := listeningEngine(b.TempDir(), listening)
	must(b, err)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		must(b, engine.Dispose(ctx))
	})
	return engine
}

func listeningEngine(folder string, listening func(address string)) (metaservice.Engine, error) {
	machine, err := listenmachine.New(listenmachine.Config{
		Address: "127.0.0.1:0", Listening: listening,
		Serve: func(ctx context.Context, listener net.Listener, handler http.Handler) error {
			return httpserver.Serve(ctx, listener, handler, quiet)
		},
	})
	if err != nil {
		return nil, err
	}
	return metaservice.NewEngine(metaservice.Config{TemporaryFolder: folder}, &metaservice.Environment{Machine: machine})
}

// startTools starts the real guest-tools, in a process of their own, which end with the benchmark.
func startTools(b *testing.B, address, folder string) (pid int) {
	b.Helper()
	tools := exec.Command(buildTools(b), "run", "--host", address)
	tools.Dir = folder
	var said bytes.Buffer
	tools.Stderr = &said
	must(b, tools.Start())
	b.Cleanup(func() {
		tools.Process.Signal(syscall.SIGTERM)
		tools.Wait()
		if b.Failed() {
			b.Logf("guest-tools: %s", &said)
		}
	})
	return tools.Process.Pid
}

// starts is how many guests are started for one turn's median.
const starts = 10

// BenchmarkStart is from the start of a sandbox on the process machine to its task's first byte of log. The limit
// starts the same two programs, one after the other, with nothing between them.
func BenchmarkStart(b *testing.B) {
	engine, err := metaservice.NewEngine(metaservice.Config{GuestTools: buildTools(b), TemporaryFolder: b.TempDir()}, nil)
	must(b, err)
	defer engine.Dispose(context.Background())
	compare(b, figures.Figure{What: "from a guest's start to its first line of log", Unit: "ms", Beside: "its two programs, started without a host", Less: true}, func() float64 {
		return medianOf(starts, func() time.Duration { return startSandbox(b, engine) })
	}, func() float64 {
		return medianOf(starts, func() time.Duration {
			start := time.Now()
			must(b, exec.Command(buildTools(b), "--version").Run())
			must(b, exec.Command("echo", "hello").Run())
			return time.Since(start)
		})
	})
}

// medianOf is the median of so many times, in milliseconds.
func medianOf(n int, f func() time.Duration) float64 {
	var times []float64
	for range n {
		times = append(times, f().Seconds()*1e3)
	}
	return figures.Quantile(times, 0.5)
}

// firstWrite notes when something is written first.
type firstWrite struct{ came chan time.Time }

func (f firstWrite) Write(p []byte) (int, error) {
	select {
	case f.came <- time.Now():
	default:
	}
	return len(p), nil
}

func startSandbox(b *testing.B, engine metaservice.Engine) time.Duration {
	b.Helper()
	log := firstWrite{make(chan time.Time, 1)}
	start := time.Now()
	builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(`{"command": ["echo", "hello"]}`), Log: log})
	must(b, err)
	sandbox, err := builder.StartSandbox(b.Context())
	must(b, err)
	took := (<-log.came).Sub(start)
	result, err := sandbox.WaitForResult(b.Context())
	must(b, err)
	if !result.Success() {
		must(b, errors.New("the task has failed"))
	}
	must(b, result.Dispose())
	return took
}
