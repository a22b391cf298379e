package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/guestfiles"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/ports"
)

// floods are what a guest does to its host all the time, each on as many goroutines as it takes.
var floods = map[string]func(address string){
	"requests": func(address string) {
		several(8, address, func(conn net.Conn) {
			requests := bytes.Repeat([]byte("GET "+wire.PathPing+" HTTP/1.1\r\nHost: h\r\n\r\n"), 100)
			go io.Copy(io.Discard, conn)
			for {
				turn()
				conn.SetWriteDeadline(time.Now().Add(window))
				if _, err := conn.Write(requests); err != nil {
					return
				}
			}
		})
	},
	"connections": func(address string) { several(4, address, func(net.Conn) {}) },
	"log": func(address string) {
		several(2, address, func(conn net.Conn) {
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", wire.PathLog)
			chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", 64<<10, make([]byte, 64<<10))
			for {
				turn()
				conn.SetWriteDeadline(time.Now().Add(window))
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		})
	},
	"shells": func(address string) { // the host asks for them, and reads none
		polite(address, func(ctx context.Context, _ Streams) int {
			<-ctx.Done() // its end would be the end of shells
			return 1
		})
	},
	"lists": func(address string) { // the host asks for them, over and over
		polite(address, func(context.Context, Streams) int { return 0 }) // the host waits for that
	},
}

// several keeps connections open, and does something with each.
func several(n int, address string, use func(net.Conn)) {
	for range n {
		go func() {
			for {
				turn()
				conn, err := net.Dial("tcp", address)
				if err != nil {
					continue
				}
				use(conn)
				conn.Close()
			}
		}()
	}
	select {}
}

// resting is held for writing while the process spins.
var resting sync.RWMutex

// turn waits until it is time to flood.
func turn() {
	resting.RLock()
	defer resting.RUnlock()
}

// polite answers what it is asked, at length.
func polite(address string, task Program) {
	client, err := hostclient.New(address, hostclient.Options{})
	if err != nil {
		panic(err)
	}
	pour := func(_ context.Context, to Streams) int {
		go io.Copy(to.Stderr, zeros{})
		io.Copy(to.Stdout, zeros{})
		return 0
	}
	programs := Programs{Task: task, Shell: pour}
	g, err := guest.New(guest.Config{Host: client, Files: manyFiles{}, Processes: programs, Shells: programs, BootID: "flood"})
	if err != nil {
		panic(err)
	}
	panic(g.Run(context.Background()))
}

// manyFiles is a folder without end, almost.
type manyFiles struct{}

func (manyFiles) Open(string) (ports.File, error) { return nil, os.ErrNotExist }

func (manyFiles) Walk(context.Context, string) (iter.Seq2[string, error], error) {
	return func(yield func(string, error) bool) {
		for i := range 200_000 {
			if !yield(fmt.Sprintf("/folder/%d", i), nil) {
				return
			}
		}
	}, nil
}

// A flood by one guest leaves another guest's action round trip under twice its own control run (I10).
//
// The flooder is a process of one core, and so is the control, which spins: on a machine of two cores the core
// that a flooder burns is its own, as a machine's is, and only what it makes the host do is measured.
//
// Windows of both come in turns, and what is compared is the median of all windows' medians, with none left
// out. A busy machine makes either side slow at random, so where the ratio is too high after a few turns,
// more are added, up to five times as many: a burst of somebody else's work is outweighed then, and a flood
// whose own effect is a factor of two is not, for it is in every one of its windows. What can pass by luck is
// one with an effect of little more than two.
func TestFloods(t *testing.T) {
	if mode, ok := strings.CutPrefix(os.Getenv(childVariable), "TestFloods/"); ok {
		flood(mode)
	}
	engine, addresses := floodedEngine(t)
	victim := startVictim(t, engine)
	<-addresses // the victim's own
	for mode := range floods {
		t.Run(mode, func(t *testing.T) {
			flooder := startFlooder(t, engine)
			address := <-addresses
			process := startFlood(t, mode, address)
			process.say(t, "flood") // a polite one does what it is asked
			hold := provoke(t, mode, flooder)
			var control, flooded []time.Duration
			var ratio float64
			for range 5 {
				for range 3 {
					process.say(t, "spin")
					control = append(control, roundTrip(t, victim))
					process.say(t, "flood")
					hold(true)
					flooded = append(flooded, roundTrip(t, victim))
					hold(false)
				}
				ratio = float64(median(flooded)) / float64(median(control))
				if ratio < 2 {
					break
				}
			}
			t.Logf("a round trip takes %s, and %s while another guest floods: %.2f times (%d windows each)", median(control), median(flooded), ratio, len(control))
			if ratio >= 2 {
				t.Errorf("I10: %s by one guest make another's action %.2f times as slow: %v, without %v", mode, ratio, flooded, control)
			}
		})
	}
}

// window is how long a round trip is measured at a time.
const window = 150 * time.Millisecond

// roundTrip is the median time of a small file, in one window.
func roundTrip(t *testing.T, victim metaservice.ResultSet) time.Duration {
	t.Helper()
	var took []time.Duration
	for begun := time.Now(); time.Since(begun) < window; {
		asked := time.Now()
		file, err := victim.ExtractFile(t.Context(), "small")
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		took = append(took, time.Since(asked))
	}
	return median(took)
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// floodedEngine has guests that are in this process if they have the option to be, and else are said the
// address of.
func floodedEngine(t *testing.T) (metaservice.Engine, <-chan string) {
	t.Helper()
	folder := guestFolder(t)
	addresses := make(chan string, 1)
	machine := NewMachine(func(life context.Context, address string, options []byte) error {
		addresses <- address
		if len(options) == 0 {
			return nil
		}
		client, err := hostclient.New(address, hostclient.Options{})
		if err != nil {
			return err
		}
		defer client.Close()
		files, err := guestfiles.New(folder)
		if err != nil {
			return err
		}
		programs := Programs{Task: func(context.Context, Streams) int { return 0 }, Shell: chatter}
		g, err := guest.New(guest.Config{Host: client, Files: files, Processes: programs, Shells: programs, BootID: "victim"})
		if err != nil {
			return err
		}
		return g.Run(life)
	})
	engine, err := metaservice.NewEngine(metaservice.Config{TemporaryFolder: t.TempDir()}, &metaservice.Environment{Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := engine.Dispose(ctx); err != nil {
			t.Errorf("Dispose: %v", err)
		}
	})
	return engine, addresses
}

func startSandbox(t *testing.T, engine metaservice.Engine, payload metaservice.Payload) metaservice.Sandbox {
	t.Helper()
	text, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: text, Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	sandbox, err := builder.StartSandbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sandbox
}

// startVictim has a guest whose task is over, and whose files are asked for.
func startVictim(t *testing.T, engine metaservice.Engine) metaservice.ResultSet {
	t.Helper()
	sandbox := startSandbox(t, engine, metaservice.Payload{Command: []string{"task"}, Machine: []byte(`{"here":true}`)})
	result, err := sandbox.WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// startFlooder has a guest that somebody else is.
func startFlooder(t *testing.T, engine metaservice.Engine) metaservice.Sandbox {
	t.Helper()
	sandbox := startSandbox(t, engine, metaservice.Payload{Command: []string{"task"}})
	t.Cleanup(func() { sandbox.Abort() })
	return sandbox
}

// provoke has the host ask for what it is to be flooded with, while hold is told so.
func provoke(t *testing.T, mode string, flooder metaservice.Sandbox) (hold func(bool)) {
	t.Helper()
	switch mode {
	case "shells":
		return func(on bool) {
			if !on {
				return
			}
			for range 4 {
				ctx, cancel := context.WithTimeout(t.Context(), callTime)
				shell, err := flooder.OpenShell(ctx, metaservice.ShellSpec{})
				cancel()
				if err != nil {
					t.Errorf("a shell: %v", err)
					return
				}
				t.Cleanup(func() { shell.Abort() })
			}
		}
	case "lists":
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		defer cancel()
		result, err := flooder.WaitForResult(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stop := func() {}
		return func(on bool) {
			stop()
			stop = func() {}
			if on {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					for ctx.Err() == nil {
						result.ExtractFolder(ctx, "/folder", func(string, io.ReadSeeker) error { return metaservice.ErrHandlerInterrupt })
					}
				}()
				stop = func() { cancel(); <-done }
			}
		}
	}
	return func(bool) {}
}

// flooding is the process that does it.
type flooding struct {
	commands io.Writer
	answers  *bufio.Scanner
}

func startFlood(t *testing.T, mode, address string) *flooding {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestFloods$")
	cmd.Env = append(os.Environ(), childVariable+"=TestFloods/"+mode, "GOMAXPROCS=1", "FAULTS_HOST="+address)
	cmd.SysProcAttr = childOf(t).SysProcAttr
	commands, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &flooding{commands, bufio.NewScanner(answers)}
}

// say has it do something, and returns when it does.
func (f *flooding) say(t *testing.T, what string) {
	t.Helper()
	if _, err := fmt.Fprintln(f.commands, what); err != nil {
		t.Fatal(err)
	}
	for f.answers.Scan() {
		if f.answers.Text() == what {
			return
		}
	}
	t.Fatal("the flooder has ended")
}

// flood is the process: it spins, or floods, as it is told.
func flood(mode string) {
	var spinning atomic.Bool
	begin := sync.OnceFunc(func() { go floods[mode](os.Getenv("FAULTS_HOST")) })
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); fmt.Println(commands.Text()) {
		switch commands.Text() {
		case "spin":
			resting.Lock()
			spinning.Store(true)
			go func() {
				for spinning.Load() {
				}
			}()
		case "flood":
			if spinning.Swap(false) {
				resting.Unlock()
			}
			begin()
		}
	}
	os.Exit(0)
}
