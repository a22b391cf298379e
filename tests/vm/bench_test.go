//go:build linux

package vm

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// turns is how often each is measured, one after the other.
const turns = 5

// median is of an odd number of values.
func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// inTurns measures what there is in turns, and prints the medians, each with its ratio to the last one's,
// which is the limit.
func inTurns(b *testing.B, unit string, measures ...measure) {
	b.Helper()
	got := make([][]float64, len(measures))
	for range turns {
		for i, m := range measures {
			got[i] = append(got[i], m.once())
		}
	}
	limit := median(got[len(got)-1])
	for i, m := range measures {
		fmt.Printf("%-40s %8.2f %s (%.2f to %.2f), %.2f of the limit\n",
			m.what, median(got[i]), unit, got[i][0], got[i][turns-1], got[i][turns/2]/limit)
	}
	b.ReportMetric(median(got[0])/limit, "ratio")
}

type measure struct {
	what string
	once func() float64
}

// firstOutput notes when something is written first.
type firstOutput struct{ came chan struct{} }

func (f *firstOutput) Write(p []byte) (int, error) {
	select {
	case <-f.came:
	default:
		close(f.came)
	}
	return len(p), nil
}

func (f *firstOutput) Close() error { return nil }

// BenchmarkBoot is the time from a sandbox's start to the first byte of its task's log, beside that of the same
// kernel and initramfs, whose init is a script that prints.
func BenchmarkBoot(b *testing.B) {
	machine := newMachine(b)
	engine := newEngine(b, machine, 1)
	defer dispose(b, engine)
	for range b.N {
		inTurns(b, "s",
			measure{"a task's first line of log", func() float64 { return firstLog(b, engine) }},
			measure{"a script's, in place of init", func() float64 { return firstWord(b) }})
	}
}

func firstLog(b *testing.B, engine ports.Engine) float64 {
	b.Helper()
	log := &firstOutput{came: make(chan struct{})}
	builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: payloadOf(metaservice.Payload{Command: []string{"echo", "hello"}}), Log: log})
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	sandbox, err := builder.StartSandbox(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	<-log.came
	took := time.Since(start)
	finish(b, sandbox)
	return took.Seconds()
}

// firstWord boots the image with a script as its init, which is laid over it, and waits for what that says on
// the console.
func firstWord(b *testing.B) float64 {
	b.Helper()
	said := &firstOutput{came: make(chan struct{})}
	machine := newMachine(b, func(c *qemu.Config) {
		c.Image = withInit(b, "#!/bin/busybox sh\necho hello\nwhile :; do busybox sleep 1000; done\n")
		c.Console = func() (io.WriteCloser, error) { return said, nil }
	})
	start := time.Now()
	guest, err := machine.Boot(b.Context(), ports.BootOptions{Handler: http.NotFoundHandler()})
	if err != nil {
		b.Fatal(err)
	}
	<-said.came
	took := time.Since(start)
	if err := guest.Stop(context.Background()); err != nil {
		b.Error(err)
	}
	return took.Seconds()
}

// withInit is the image with another init.
func withInit(b *testing.B, script string) vmimage.Image {
	b.Helper()
	initrd, err := os.ReadFile(image.InitrdFile())
	if err != nil {
		b.Fatal(err)
	}
	var archive bytes.Buffer
	zip := gzip.NewWriter(&archive)
	w := cpio.NewWriter(zip)
	err = w.WriteHeader(&cpio.Header{Name: "script", Mode: cpio.TypeReg | 0o755, Size: int64(len(script))})
	if err == nil {
		_, err = io.WriteString(w, script)
	}
	if err := errors.Join(err, w.Close(), zip.Close()); err != nil {
		b.Fatal(err)
	}
	folder := b.TempDir()
	definition := image.Definition
	definition.Append = strings.TrimSpace(definition.Append + " rdinit=/script")
	if err := errors.Join(
		copyFile(filepath.Join(folder, definition.Kernel), image.KernelFile()),
		os.WriteFile(filepath.Join(folder, definition.Initrd), append(initrd, archive.Bytes()...), 0o600),
		vmimage.Write(folder, definition),
	); err != nil {
		b.Fatal(err)
	}
	changed, err := vmimage.Read(folder)
	if err != nil {
		b.Fatal(err)
	}
	return changed
}

const mebibyte = 1 << 20

// BenchmarkThroughput is what comes out of a machine as an artifact, a log and a shell's output, beside raw TCP
// out of the same machine, through the same network.
func BenchmarkThroughput(b *testing.B) {
	const size = 32 // MiB
	machine := newMachine(b)
	engine := newEngine(b, machine, 1)
	defer dispose(b, engine)
	raw := &rawSink{came: make(chan int64, 1)}
	log := &timedLog{}
	sandbox := beginTimed(b, engine, raw, log, size)
	shell := func(command ...string) (int64, error) {
		s, err := sandbox.OpenShell(b.Context(), domain.ShellSpec{Command: command})
		if err != nil {
			return 0, err
		}
		n, err := io.Copy(io.Discard, s.StdoutPipe())
		if success, waitErr := s.Wait(); !success || waitErr != nil {
			err = errors.Join(err, waitErr, errors.New("the shell has failed"))
		}
		return n, err
	}
	rate := func(n int64, start time.Time) float64 { return float64(n) / mebibyte / time.Since(start).Seconds() }
	for range b.N {
		inTurns(b, "MiB/s",
			measure{"a shell's output", func() float64 {
				start := time.Now()
				n, err := shell("cat", "/big")
				if n != size*mebibyte || err != nil {
					b.Fatal(n, err)
				}
				return rate(n, start)
			}},
			measure{"raw TCP", func() float64 {
				start := time.Now()
				if _, err := shell("sh", "-c", `{ printf 'POST /raw/ HTTP/1.1\r\nHost: h\r\n\r\n'; cat /big; } | nc 169.254.169.254 80`); err != nil {
					b.Fatal(err)
				}
				return rate(<-raw.came, start)
			}})
	}
	if _, err := shell("touch", "/done"); err != nil {
		b.Fatal(err)
	}
	result, err := sandbox.WaitForResult(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	fmt.Printf("%-40s %8.2f MiB/s\n", "the task's log, through a pipe", log.rate())
	start := time.Now()
	file, err := result.ExtractFile(b.Context(), "/big")
	if err != nil {
		b.Fatal(err)
	}
	fmt.Printf("%-40s %8.2f MiB/s\n", "an artifact", rate(size*mebibyte, start))
	if err := errors.Join(file.Close(), result.Dispose()); err != nil {
		b.Error(err)
	}
}

// beginTimed starts a task that makes a file, prints it once it is told to end, and so stays until then.
func beginTimed(b *testing.B, engine ports.Engine, raw http.Handler, log io.Writer, mib int) ports.Sandbox {
	b.Helper()
	script := fmt.Sprintf("head -c %dM /dev/urandom >/big; touch /ready; until [ -e /done ]; do sleep 0.1; done; cat /big | cat", mib)
	builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: payloadOf(metaservice.Payload{Command: []string{"sh", "-c", script}}), Log: log})
	if err == nil {
		err = builder.AttachProxy("raw", raw)
	}
	if err != nil {
		b.Fatal(err)
	}
	sandbox, err := builder.StartSandbox(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	eventually(b, "the task is not ready", func() bool {
		s, err := sandbox.OpenShell(b.Context(), domain.ShellSpec{Command: []string{"test", "-e", "/ready"}})
		if err != nil {
			b.Fatal(err)
		}
		there, err := s.Wait()
		if err != nil {
			b.Fatal(err)
		}
		return there
	})
	return sandbox
}

// rawSink takes a connection over, and counts what comes until its end.
type rawSink struct{ came chan int64 }

func (s *rawSink) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.came <- 0
		return
	}
	defer conn.Close()
	n, _ := io.Copy(io.Discard, rw.Reader)
	s.came <- n
}

// timedLog is a log that knows how fast it came.
type timedLog struct {
	first, last time.Time
	bytes       int64
}

func (l *timedLog) Write(p []byte) (int, error) {
	l.last = time.Now()
	if l.bytes == 0 {
		l.first = l.last
	}
	l.bytes += int64(len(p))
	return len(p), nil
}

func (l *timedLog) rate() float64 {
	return float64(l.bytes) / mebibyte / l.last.Sub(l.first).Seconds()
}
