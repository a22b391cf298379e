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
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/tempfiles"
	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/bench/figures"
)

// turns is how often each is measured, one after the other.
const turns = 5

// firstOutput notes when a line is written first. A console has others before.
type firstOutput struct {
	line string
	came chan struct{}
	said []byte
}

func (f *firstOutput) Write(p []byte) (int, error) {
	before := bytes.Contains(f.said, []byte(f.line))
	if f.said = append(f.said, p...); !before && bytes.Contains(f.said, []byte(f.line)) {
		close(f.came)
	}
	return len(p), nil
}

func (f *firstOutput) Close() error { return nil }

// The kernel's first words once passed for those of a script that it had yet to start.
func TestFirstOutputIsTheLine(t *testing.T) {
	f := &firstOutput{line: "hello", came: make(chan struct{})}
	for i, piece := range []string{"[    0.0] Linux\r\n", "he", "llo\r\n", "hello again"} {
		_, _ = io.WriteString(f, piece)
		came := false
		select {
		case <-f.came:
			came = true
		default:
		}
		if came != (i >= 2) {
			t.Errorf("after %q: %t", f.said, came)
		}
	}
}

// BenchmarkBoot is the time from a sandbox's start to the first line of its task's log, beside that of the same
// kernel and initramfs, whose init is a script that prints.
func BenchmarkBoot(b *testing.B) {
	machine := newMachine(b)
	engine := newEngine(b, machine, 1)
	defer dispose(b, engine)
	for range b.N {
		got := figures.InTurns(turns, func() float64 { return firstLog(b, engine) }, func() float64 { return firstWord(b) })
		figures.Figure{What: "from a machine's start to its first line of log", Unit: "s", Ours: got[0],
			Beside: "the same kernel and initramfs, whose init is a script that prints", Limit: got[1], Less: true}.Report(b)
	}
}

func firstLog(b *testing.B, engine ports.Engine) float64 {
	b.Helper()
	log := &firstOutput{line: "hello", came: make(chan struct{})}
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
	said := &firstOutput{line: "hello", came: make(chan struct{})}
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

// bulk is how much is brought out of a machine at a time.
const bulk = 8 << 20

// BenchmarkThroughput is what comes out of a machine as an artifact, a log and a shell's output, beside raw TCP
// out of the same machine, through the same network.
func BenchmarkThroughput(b *testing.B) {
	engine := newEngine(b, newMachine(b), 1)
	defer dispose(b, engine)
	storage, err := tempfiles.New(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	bulky := &bulkyGuest{raw: &rawSink{came: make(chan arrival, 1)}, log: &bulkyLog{whole: make(chan struct{})}, storage: storage}
	bulky.begin(b, engine)
	for range b.N {
		got := figures.InTurns(turns, bulky.timed(b, bulky.artifact), bulky.timed(b, bulky.logged), bulky.timed(b, bulky.shell), func() float64 { return bulky.tcp(b) })
		for i, what := range []string{"an artifact out of a machine", "a log out of a machine, from a terminal", "a shell's output out of a machine"} {
			figures.Figure{What: what, Unit: "MiB/s", Ours: got[i], Beside: "raw TCP out of it", Limit: got[3]}.Report(b)
		}
	}
}

// bulkyGuest is a guest with a large file, whose task prints it whenever it is told to.
type bulkyGuest struct {
	sandbox *host.Sandbox
	raw     *rawSink
	log     *bulkyLog
	storage ports.Storage
}

func (g *bulkyGuest) begin(b *testing.B, engine ports.Engine) {
	b.Helper()
	script := fmt.Sprintf(`head -c %d /dev/urandom >/big
printf '#!/bin/sh\nprintf "POST /raw/ HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\n\\r\\n"; exec cat /big\n' >/send
chmod +x /send
touch /ready
while :; do
	until [ -e /print ]; do sleep 0.02; done
	rm /print
	cat /big
done`, bulk)
	builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: payloadOf(metaservice.Payload{Command: []string{"sh", "-c", script}}), Log: g.log})
	if err == nil {
		err = builder.AttachProxy("raw", g.raw)
	}
	if err != nil {
		b.Fatal(err)
	}
	sandbox, err := builder.StartSandbox(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	g.sandbox = sandbox.(*host.Sandbox)
	eventually(b, "the guest is not ready", func() bool {
		_, ready, err := g.run(b, "test", "-e", "/ready")
		if err != nil {
			b.Fatal(err)
		}
		return ready
	})
}

// run runs a command in a shell, and counts its output.
func (g *bulkyGuest) run(b *testing.B, command ...string) (came int64, success bool, err error) {
	shell, err := g.sandbox.OpenShell(b.Context(), domain.ShellSpec{Command: command})
	if err != nil {
		return 0, false, err
	}
	came, err = io.Copy(io.Discard, shell.StdoutPipe())
	success, waitErr := shell.Wait()
	return came, success, errors.Join(err, waitErr)
}

// timed is the rate of something that brings bulk bytes, in MiB/s.
func (g *bulkyGuest) timed(b *testing.B, bring func(b *testing.B) (came int64, err error)) func() float64 {
	return func() float64 {
		start := time.Now()
		came, err := bring(b)
		if came != bulk || err != nil {
			b.Fatalf("%d bytes came: %v", came, err)
		}
		return float64(came) / (1 << 20) / time.Since(start).Seconds()
	}
}

func (g *bulkyGuest) artifact(b *testing.B) (int64, error) {
	file, err := g.sandbox.Task().Service().Fetch(b.Context(), "/big", g.storage)
	if err != nil {
		return 0, err
	}
	came, err := file.Seek(0, io.SeekEnd)
	return came, errors.Join(err, file.Close())
}

func (g *bulkyGuest) logged(b *testing.B) (int64, error) {
	if _, _, err := g.run(b, "touch", "/print"); err != nil {
		return 0, err
	}
	select {
	case <-g.log.whole:
		return bulk, nil
	case <-time.After(patience):
		return 0, errors.New("the log doesn't come")
	}
}

func (g *bulkyGuest) shell(b *testing.B) (int64, error) {
	came, _, err := g.run(b, "cat", "/big")
	return came, err
}

// tcp is the rate of raw TCP, in MiB/s.
func (g *bulkyGuest) tcp(b *testing.B) float64 {
	if _, _, err := g.run(b, "nc", "169.254.169.254", "80", "-e", "/send"); err != nil { // cat writes into the socket itself
		b.Fatal(err)
	}
	select {
	case got := <-g.raw.came:
		if got.bytes != bulk {
			b.Fatalf("%d bytes came", got.bytes)
		}
		return float64(got.bytes) / (1 << 20) / got.took.Seconds()
	case <-time.After(patience):
		b.Fatal("nothing comes")
		return 0
	}
}

// bulkyLog tells whenever a whole bulk has come.
type bulkyLog struct {
	whole chan struct{}
	came  int
}

func (l *bulkyLog) Write(p []byte) (int, error) {
	before := l.came / bulk
	l.came += len(p)
	if l.came/bulk > before {
		l.whole <- struct{}{}
	}
	return len(p), nil
}

// rawSink takes a connection over, and tells what comes until its end, and in which time from then on: the
// programs in the guest that bring it take theirs to start.
type rawSink struct{ came chan arrival }

type arrival struct {
	bytes int64
	took  time.Duration
}

func (s *rawSink) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.came <- arrival{}
		return
	}
	defer conn.Close()
	start := time.Now()
	n, _ := io.Copy(io.Discard, rw.Reader)
	s.came <- arrival{n, time.Since(start)}
}
