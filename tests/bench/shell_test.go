package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/tests/bench/figures"
)

// gibibyte is what the rates are measured with.
const gibibyte = 1 << 30

// The commands that are run in the guest, in the relay and by ssh.
var (
	produce = []string{"head", "-c", strconv.Itoa(gibibyte), "/dev/zero"}
	consume = []string{"sh", "-c", "cat >/dev/null"}
	echo    = []string{"cat"}
)

// guestProcess is the real guest-tools, in a process of their own, and their host, in this one.
type guestProcess struct {
	host *metaservice.MetaService
	pid  int
}

// newGuestProcess starts guest-tools whose way to the host is by way of through, or direct where that is nil.
func newGuestProcess(b *testing.B, through func(b *testing.B, address string) string) *guestProcess {
	b.Helper()
	storage, err := metaservice.NewTemporaryStorage(b.TempDir())
	must(b, err)
	host := metaservice.New([]string{"sleep", "infinity"}, nil, nil, nil, &metaservice.Environment{TemporaryStorage: storage})
	address := serve(b, host)
	b.Cleanup(func() { host.Close() })
	if through != nil {
		address = through(b, address)
	}
	return &guestProcess{host: host, pid: startTools(b, address, b.TempDir())}
}

var buildOnce = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "metaservice-bench-tools-*")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "guest-tools")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../../cmd/guest-tools")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func removeTools() {
	if path, err := buildOnce(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
}

// buildTools builds guest-tools once; TestMain removes them.
func buildTools(b *testing.B) string {
	b.Helper()
	path, err := buildOnce()
	must(b, err)
	return path
}

func (g *guestProcess) shell(b *testing.B, command []string) metaservice.Shell {
	b.Helper()
	shell, err := g.host.ExecShell(command, false)
	must(b, err)
	return shell
}

// output brings a GiB out of the guest, and returns MiB/s.
func (g *guestProcess) output(b *testing.B) float64 {
	start := time.Now()
	shell := g.shell(b, produce)
	n, err := io.Copy(io.Discard, shell.StdoutPipe())
	took := time.Since(start)
	if n != gibibyte || err != nil {
		b.Fatalf("%d bytes came: %v", n, err)
	}
	g.ended(b, shell)
	return rate(n, took)
}

func (g *guestProcess) ended(b *testing.B, shell metaservice.Shell) {
	b.Helper()
	if success, err := shell.Wait(); !success || err != nil {
		b.Fatal(success, err)
	}
}

// input sends a GiB into the guest.
func (g *guestProcess) input(b *testing.B) float64 {
	start := time.Now()
	shell := g.shell(b, consume)
	stdin := shell.StdinPipe()
	n, err := io.Copy(stdin, io.LimitReader(endless{}, gibibyte))
	must(b, errors.Join(err, stdin.Close()))
	g.ended(b, shell) // it has read all of it
	return rate(n, time.Since(start))
}

// endless is a reader that costs nothing: it leaves the buffer as it is.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// cpu is the time that a process has used, children not included, in seconds.
func cpu(b *testing.B, pid int) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	user, err := strconv.ParseFloat(fields[11], 64)
	must(b, err)
	system, err := strconv.ParseFloat(fields[12], 64)
	must(b, err)
	return (user + system) / 100 // USER_HZ, which Linux fixes for programs
}

// relay is a process that what there is to reach is measured with. It is this program, run again.
type relay struct {
	address string
	pid     int
}

func newRelay(b *testing.B, role string, through func(b *testing.B, address string) string) *relay {
	b.Helper()
	path := self(b)
	cmd := exec.Command(path, role)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // its end ends the relay
	must(b, err)
	stdout, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	b.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	line := make([]byte, 64)
	n, err := stdout.Read(line)
	must(b, err)
	r := &relay{address: strings.TrimSpace(string(line[:n])), pid: cmd.Process.Pid}
	if through != nil {
		r.address = through(b, r.address)
	}
	return r
}

// roles are what this program is where it is run again.
var roles = map[string]func(net.Listener) int{
	"bench-relay": relayMain, "bench-server": serverMain, "bench-sender": senderMain,
}

// playRole listens, tells where, and plays a role until its standard input ends.
func playRole(role func(net.Listener) int) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(listener.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return role(listener)
}

// serverMain answers every request with nothing.
func serverMain(listener net.Listener) int {
	err := httpserver.Serve(context.Background(), listener, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), quiet)
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// relayMain accepts connections whose first line is a command, and connects the pipes of that to the
// connection, by reads and writes of 64 KiB.
func relayMain(listener net.Listener) int {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return 1
		}
		wire.DontPace(conn)
		go func() {
			defer conn.Close()
			if err := relayOne(conn.(*net.TCPConn)); err != nil {
				fmt.Fprintln(os.Stderr, "relay:", err)
			}
		}()
	}
}

func relayOne(conn *net.TCPConn) error {
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := conn.Read(b); err != nil || b[0] == '\n' {
			break
		}
	}
	args := strings.Split(string(line), "\x00")
	cmd := exec.Command(args[0], args[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		copy64(stdin, conn)
		stdin.Close()
	}()
	copy64(conn, stdout)
	err = cmd.Wait()
	return errors.Join(err, conn.CloseWrite())
}

// copy64 copies by reads and writes, 64 KiB at a time: nothing is spliced.
func copy64(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 64<<10))
}

func (r *relay) dial(b *testing.B, command []string) *net.TCPConn {
	b.Helper()
	conn, err := dialUnpaced(b.Context(), r.address)
	must(b, err)
	_, err = fmt.Fprintf(conn, "%s\n", strings.Join(command, "\x00"))
	must(b, err)
	return conn.(*net.TCPConn)
}

func (r *relay) output(b *testing.B) float64 {
	start := time.Now()
	conn := r.dial(b, produce)
	defer conn.Close()
	n, err := copy64(io.Discard, conn)
	if n != gibibyte || err != nil {
		b.Fatalf("%d bytes came: %v", n, err)
	}
	return rate(n, time.Since(start))
}

func (r *relay) input(b *testing.B) float64 {
	start := time.Now()
	conn := r.dial(b, consume)
	defer conn.Close()
	n, err := copy64(conn, io.LimitReader(endless{}, gibibyte))
	must(b, errors.Join(err, conn.CloseWrite()))
	io.Copy(io.Discard, conn) // it ends when the child has
	return rate(n, time.Since(start))
}

// costed is f with what each turn cost at both ends, in CPU seconds for each GiB, which report reports.
func costed(b *testing.B, guest int, f func(*testing.B) float64) (ours func() float64, report func(what string)) {
	var here, there []float64
	return func() float64 {
			h, g := cpu(b, os.Getpid()), cpu(b, guest)
			rate := f(b)
			here = append(here, cpu(b, os.Getpid())-h)
			there = append(there, cpu(b, guest)-g)
			return rate
		}, func(what string) {
			for end, costs := range map[string][]float64{"host": here[1:], "guest": there[1:]} { // the first is for warmth
				figures.Figure{What: what + ", " + end + "'s CPU", Unit: "s/GiB", Ours: costs, Beside: "a bound",
					Limit: []float64{0.8}, Less: true, Wanted: 1}.Report(b)
			}
		}
}

const beside = "a relay between a child's pipes and TCP"

// BenchmarkShellOutput is a GiB out of a child in the guest, beside the same child behind a bare relay.
func BenchmarkShellOutput(b *testing.B) {
	guest, bare := newGuestProcess(b, nil), newRelay(b, "bench-relay", nil)
	ours, report := costed(b, guest.pid, guest.output)
	compare(b, figures.Figure{What: "a shell's output, 1 GiB", Unit: "MiB/s", Beside: beside, Wanted: 0.8},
		ours, func() float64 { return bare.output(b) })
	report("a shell's output")
}

// BenchmarkShellInput is a GiB into a child in the guest.
func BenchmarkShellInput(b *testing.B) {
	guest, bare := newGuestProcess(b, nil), newRelay(b, "bench-relay", nil)
	ours, report := costed(b, guest.pid, guest.input)
	compare(b, figures.Figure{What: "a shell's input, 1 GiB", Unit: "MiB/s", Beside: beside, Wanted: 0.8},
		ours, func() float64 { return bare.input(b) })
	report("a shell's input")
}

// BenchmarkShellEcho is one byte there and back through cat.
func BenchmarkShellEcho(b *testing.B) {
	guest, bare := newGuestProcess(b, nil), newRelay(b, "bench-relay", nil)
	shell := guest.shell(b, echo)
	conn := bare.dial(b, echo)
	defer conn.Close()
	bounce := func(w io.Writer, r io.Reader) func() float64 {
		one := make([]byte, 1)
		return func() float64 {
			return p50(func() {
				_, err := w.Write(one)
				must(b, err)
				_, err = io.ReadFull(r, one)
				must(b, err)
			})
		}
	}
	compare(b, figures.Figure{What: "a byte to a shell and back", Unit: "µs", Beside: beside, Less: true, Wanted: 1.5},
		bounce(shell.StdinPipe(), shell.StdoutPipe()), bounce(conn, conn))
	must(b, shell.StdinPipe().Close())
	guest.ended(b, shell)
}

// BenchmarkShellDelayed is BenchmarkShellOutput with 5 ms added to the round trip.
func BenchmarkShellDelayed(b *testing.B) {
	through := func(b *testing.B, address string) string { return delayed(b, address, 5*time.Millisecond/2) }
	guest, bare := newGuestProcess(b, through), newRelay(b, "bench-relay", through)
	for range b.N {
		got := figures.InTurns(turns, func() float64 { return guest.output(b) }, func() float64 { return bare.output(b) })
		figures.Figure{What: "a shell's output with 5 ms", Unit: "MiB/s", Ours: got[0],
			Beside: beside + ", whose window nothing bounds", Limit: got[1]}.Report(b)
		figures.Figure{What: "a shell's output with 5 ms, and the bound", Unit: "MiB/s", Ours: got[0],
			Beside: "a bound", Limit: []float64{300}, Wanted: 1}.Report(b)
	}
}

// delayed is a way to address on which all takes d longer, in each direction.
func delayed(b *testing.B, address string, d time.Duration) string {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(func() {
		cancel()
		listener.Close()
	})
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := dialUnpaced(ctx, address)
			if err != nil {
				near.Close()
				continue
			}
			wire.DontPace(near)
			context.AfterFunc(ctx, func() { near.Close(); far.Close() })
			go delay(far, near, d)
			go delay(near, far, d)
		}
	}()
	return listener.Addr().String()
}

// delay copies, each byte d after it came.
func delay(to, from net.Conn, d time.Duration) {
	type parcel struct {
		due  time.Time
		data []byte
	}
	way := make(chan parcel, 4096)
	spare := make(chan []byte, 4096)
	go func() {
		defer to.Close()
		for p := range way {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				from.Close()
			}
			select {
			case spare <- p.data[:cap(p.data)]:
			default:
			}
		}
	}()
	defer close(way)
	for {
		var buf []byte
		select {
		case buf = <-spare:
		default:
			buf = make([]byte, 256<<10)
		}
		n, err := from.Read(buf)
		if n > 0 {
			way <- parcel{time.Now().Add(d), buf[:n]}
		}
		if err != nil {
			return
		}
	}
}
