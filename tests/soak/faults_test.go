//go:build linux

package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/guestfiles"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/tests/contract"
	"github.com/hexworker/metaservice/tests/faults"
)

// brokenSandboxes is how many there are at once behind proxies.
const brokenSandboxes = 40

// callPatience is for how long a caller waits before it gives up; a second later it must have returned (I9).
const callPatience = 10 * time.Second

// roughly is what the guests behind proxies do: options of their machine.
type roughly struct {
	Seed   uint64 `json:"seed"` // of what is done to its connections, and to it
	Lines  int    `json:"lines"`
	Exit   int    `json:"exit"`
	Linger bool   `json:"linger"` // until it is killed
}

// log is what its task says.
func (p roughly) log() string {
	var text strings.Builder
	for i := range p.Lines {
		fmt.Fprintf(&text, "line %06d\n", i)
	}
	return text.String()
}

// shellSays is what its shells say.
var shellSays = strings.Repeat("what a shell says, which is more than a window has\n", 4000)

const (
	fileHolds = "the content of a file that is in a temporary one at its host\n"
	fileTimes = 2000 // more than stays in memory
	fileCount = 10
)

// TestGuestsBehindFaults: whatever is done to the ways between guests and hosts, and to the guests, no success
// is a false one, no file is a short one, every caller returns, and nothing is left.
func TestGuestsBehindFaults(t *testing.T) {
	lag := contract.WatchLag()
	defer lag.Stop()
	before, open := goleak.IgnoreCurrent(), openFiles()
	folder := t.TempDir()
	err := errors.Join(os.WriteFile(filepath.Join(folder, "file"), []byte(strings.Repeat(fileHolds, fileTimes)), 0o600), os.Mkdir(filepath.Join(folder, "folder"), 0o700))
	for i := range fileCount {
		err = errors.Join(err, os.WriteFile(filepath.Join(folder, "folder", fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	chosen := *seed
	if chosen == 0 {
		chosen = rand.Uint64()
	}
	r := &run{T: t, lag: lag, disposed: make(chan struct{}), counts: make(map[string]int)}
	temporary := t.TempDir()
	r.engine, err = metaservice.NewEngine(metaservice.Config{
		TemporaryFolder: temporary,
		MaxConcurrency:  brokenSandboxes,
		BootTimeout:     metaservice.Duration(5 * time.Second),
		Limits: metaservice.ConfigLimits{
			Hold: metaservice.Duration(500 * time.Millisecond), Reply: metaservice.Duration(2 * time.Second), Offer: metaservice.Duration(5 * time.Second),
			Stall: metaservice.Duration(time.Second), Silence: metaservice.Duration(3 * time.Second), LogEnd: metaservice.Duration(time.Second),
		},
	}, &metaservice.Environment{Machine: faults.NewMachine(func(life context.Context, address string, options []byte) error {
		return r.beBroken(life, folder, address, options)
	})})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range brokenSandboxes {
		all.Go(func() {
			for random := rand.New(rand.NewPCG(chosen, uint64(i))); !r.ending() && !r.Failed(); {
				r.runBroken(random)
			}
		})
	}
	use := sampleFor(lasts())
	close(r.disposed)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.engine.Dispose(ctx); err != nil {
		t.Errorf("Dispose: %v", err)
	}
	all.Wait()
	fmt.Printf("%s: seed %d, %d sandboxes at once for %s: %s\n", t.Name(), chosen, brokenSandboxes, lasts(), r.account())
	use.judge(t, brokenSandboxes)
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	goleak.VerifyNone(t, before)
	noneLeft(t, open)
}

// beBroken is a guest whose connections are broken, and which itself is rebooted, or loses its power.
func (r *run) beBroken(life context.Context, folder, address string, options []byte) error {
	var p roughly
	if err := json.Unmarshal(options, &p); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(p.Seed, 0))
	proxy, err := faults.NewProxy(address)
	if err != nil {
		return err
	}
	defer proxy.Close()
	for boot := 0; life.Err() == nil; boot++ {
		up := time.Hour
		if random.IntN(8) == 0 {
			up = time.Duration(random.Int64N(int64(500 * time.Millisecond)))
		}
		this, down := context.WithTimeout(life, up)
		var breaking sync.WaitGroup
		breaking.Go(func() { r.breakUp(this, proxy, rand.New(rand.NewPCG(p.Seed, uint64(boot)+1))) })
		err := beGuest(this, folder, proxy.Address(), fmt.Sprint("boot ", boot), p)
		down()
		breaking.Wait()
		switch {
		case err != nil:
			return err
		case life.Err() != nil:
			return nil
		case random.IntN(3) == 0:
			r.count("guests without power")
			return errPower
		}
		proxy.Sever()
		r.count("reboots")
	}
	return nil
}

// breakUp does all that can be done to connections, until life ends.
func (r *run) breakUp(life context.Context, proxy *faults.Proxy, random *rand.Rand) {
	requests := []string{
		"POST " + wire.PathHello, "GET " + wire.PathExecute, "POST " + wire.PathLog, "PUT " + wire.PathSuccess, "PUT " + wire.PathFailed,
		"GET " + wire.PathPoll, "POST " + wire.PathReply, "GET " + wire.PathReply,
	}
	kinds, moments := faults.Kinds(), faults.Moments()
	for first := true; ; first = false {
		most := 3 * time.Second // for each may cost one or two, and all is to come right now and then
		if first {
			most = 300 * time.Millisecond
		}
		timer := time.NewTimer(time.Duration(random.Int64N(int64(most))))
		select {
		case <-life.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if random.IntN(20) == 0 {
			proxy.Sever()
			r.count("severed")
			continue
		}
		proxy.Inject(faults.Fault{
			Request: requests[random.IntN(len(requests))], Kind: kinds[random.IntN(len(kinds))], Moment: moments[random.IntN(len(moments))],
			Body: random.IntN(20_000), Time: time.Duration(random.Int64N(int64(100 * time.Millisecond))), Rate: 256 << 10,
		})
		r.count("faults")
	}
}

// beGuest is one boot of the guest.
func beGuest(life context.Context, folder, address, boot string, p roughly) error {
	client, err := hostclient.New(address, hostclient.Options{DialTimeout: time.Second, PollTimeout: 2 * time.Second, AnswerTimeout: 1500 * time.Millisecond})
	if err != nil {
		return err
	}
	defer client.Close()
	files, err := guestfiles.New(folder)
	if err != nil {
		return err
	}
	programs := faults.Programs{
		Task: func(ctx context.Context, to faults.Streams) int {
			io.WriteString(to.Stdout, p.log())
			if p.Linger {
				<-ctx.Done()
			}
			return p.Exit
		},
		Shell: func(_ context.Context, to faults.Streams) int {
			if _, err := io.Copy(io.Discard, to.Stdin); err != nil {
				return 1
			}
			if _, err := io.WriteString(to.Stdout, shellSays); err != nil {
				return 1
			}
			return 3
		},
	}
	g, err := guest.New(guest.Config{Host: client, Files: files, Processes: programs, Shells: programs, Version: "test", BootID: boot, Dir: folder})
	if err != nil {
		return err
	}
	defer context.AfterFunc(life, g.Hurry)()
	return g.Run(life)
}

// inTime calls f with a context, and holds it to that.
func (r *run) inTime(what string, f func(ctx context.Context)) {
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	begun := time.Now()
	f(ctx)
	if late := time.Since(begun) - callPatience; late > r.lag.Allowed(time.Second) {
		r.Errorf("I9: %s returned %s after its context, and no timer was later than %s", what, late, r.lag.Most())
	}
}

// runBroken runs one sandbox.
func (r *run) runBroken(random *rand.Rand) {
	p := roughly{Seed: random.Uint64(), Lines: random.IntN(5000), Exit: random.IntN(2), Linger: random.IntN(4) == 0}
	options, err := json.Marshal(p)
	if err != nil {
		r.Error(err)
		return
	}
	text, err := json.Marshal(metaservice.Payload{Command: []string{"task"}, Machine: options, Timeout: metaservice.Duration(3 * time.Second)})
	if err != nil {
		r.Error(err)
		return
	}
	var log strings.Builder // the sandbox's alone until it has ended
	builder, err := r.engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: text, Log: &log})
	if err != nil {
		r.unlessEnding("NewSandboxBuilder", err)
		return
	}
	sandbox, err := builder.StartSandbox(context.Background())
	if err != nil {
		r.unlessEnding("StartSandbox", err)
		return
	}
	var beside sync.WaitGroup
	if random.IntN(2) == 0 {
		beside.Go(func() { r.talkThrough(sandbox) })
	}
	if p.Linger && random.IntN(2) == 0 {
		beside.Go(func() { sandbox.Kill() })
	}
	var result metaservice.ResultSet
	r.inTime("WaitForResult", func(ctx context.Context) { result, err = sandbox.WaitForResult(ctx) })
	if errors.Is(err, context.DeadlineExceeded) { // a shell may keep the sandbox: it is given up
		sandbox.Abort()
		result, err = sandbox.WaitForResult(context.Background())
	}
	beside.Wait()
	status, ok := end{result, err}.status(r)
	if !ok {
		r.count("ended by the engine")
		return
	}
	r.count(status.String())
	// A guest that reboots between its log's end and its result runs its task, and says all of it, once more.
	said := p.log()
	for status == domain.StatusSuccess && said != "" && len(said) < log.Len() {
		said += p.log()
	}
	if status == domain.StatusSuccess && (log.String() != said || p.Exit != 0 || p.Linger) {
		r.Errorf("I1, I2: a success with %d bytes of log of %d, of a task with exit code %d", log.Len(), len(p.log()), p.Exit)
	}
	if err != nil {
		return
	}
	r.bringThrough(result)
	if err := result.Dispose(); err != nil {
		r.Errorf("Dispose: %v", err)
	}
}

// bringThrough asks for a file and a folder: each is whole, or an error.
func (r *run) bringThrough(result metaservice.ResultSet) {
	r.inTime("ExtractFile", func(ctx context.Context) {
		file, err := result.ExtractFile(ctx, "file")
		if err != nil {
			r.count("files that failed")
			return
		}
		defer file.Close()
		if content, err := io.ReadAll(file); err != nil || string(content) != strings.Repeat(fileHolds, fileTimes) {
			r.Errorf("I12: a file of %d bytes, %v", len(content), err)
		}
		r.count("files")
	})
	r.inTime("ExtractFolder", func(ctx context.Context) {
		var mu sync.Mutex
		got := 0
		err := result.ExtractFolder(ctx, "folder", func(name string, file io.ReadSeeker) error {
			content, err := io.ReadAll(file)
			if err != nil || string(content) != name {
				r.Errorf("I12: file %s holds %q, %v", name, content, err)
			}
			mu.Lock()
			defer mu.Unlock()
			got++
			return nil
		})
		switch {
		case err != nil:
			r.count("folders that failed")
		case got != fileCount:
			r.Errorf("I12: a folder of %d files", got)
		default:
			r.count("folders")
		}
	})
}

// talkThrough has a shell: what it says is a prefix, and all of it if its end was told.
func (r *run) talkThrough(sandbox metaservice.Sandbox) {
	r.inTime("a shell", func(ctx context.Context) {
		shell, err := sandbox.OpenShell(ctx, metaservice.ShellSpec{})
		if err != nil {
			r.count("shells that failed")
			return
		}
		defer context.AfterFunc(ctx, func() { shell.Abort() })()
		shell.StderrPipe().Close()
		shell.StdinPipe().Close()
		output, readErr := io.ReadAll(shell.StdoutPipe())
		result, err := shell.Result(ctx)
		switch {
		case err != nil, result.Report != nil && result.Report.Reason != domain.ReasonExited:
			shell.Abort() // too late is fine
			r.count("shells that failed")
		case result.Report == nil || result.Report.ExitCode != 3 || readErr != nil || string(output) != shellSays:
			r.Errorf("I1, I2: a shell ended with %+v, %v, after %d bytes", result.Report, readErr, len(output))
		default:
			r.count("shells")
		}
	})
}
