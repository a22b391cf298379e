//go:build linux

package soak

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/metaservicetest"
	"github.com/hexworker/metaservice/tests/contract"
)

var (
	seed     = flag.Uint64("seed", 0, "the seed of the choices; 0 is a new one")
	duration = flag.Duration("duration", 0, "how long each machine is run; 0 is 5 s, 20 s where CI is set, and 5 minutes with -long")
)

// marker is in the environment of every process that a run starts, so that those which are left can be
// found.
const marker = "METASERVICE_SOAK"

func lasts() time.Duration {
	switch {
	case *duration > 0:
		return *duration
	case *contract.Long:
		return 5 * time.Minute
	case os.Getenv("CI") != "":
		return 20 * time.Second
	}
	return 5 * time.Second
}

// errPower is what a guest dies of in the middle of its task.
var errPower = errors.New("the power failed")

func TestGuestsInTheProcess(t *testing.T) {
	behave := metaservicetest.Run(metaservicetest.Behave)
	machine := metaservicetest.NewMachine(func(ctx context.Context, guest *metaservicetest.Guest) error {
		if string(guest.Options()) != `{"dies":true}` {
			return behave(ctx, guest)
		}
		if _, err := guest.Execute(); err != nil {
			return err
		}
		_ = guest.Log("about to die") // which an abort may forestall
		return errPower
	})
	soak(t, 200, machine, metaservice.Config{}, func(p plan) metaservice.Payload {
		payload := metaservice.Payload{Command: p.Command()}
		if p.dies {
			payload.Machine = []byte(`{"dies":true}`)
		}
		return payload
	})
}

func TestGuestsOnTheProcessMachine(t *testing.T) {
	tools := filepath.Join(t.TempDir(), "guest-tools")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", tools, "github.com/hexworker/metaservice/cmd/guest-tools")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	run := fmt.Sprintf("%s of %d", t.Name(), os.Getpid())
	soak(t, 50, nil, metaservice.Config{GuestTools: tools}, func(p plan) metaservice.Payload {
		return metaservice.Payload{Command: p.Shell(), Env: map[string]string{marker: run, victim: p.name}}
	})
	if left := processesOf(run); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

// plan is what is to become of one sandbox.
type plan struct {
	metaservicetest.Behaviour
	dies    bool          // its machine does
	timeout time.Duration // 0 is none
	kill    time.Duration // from the start on; 0 is never
	abort   time.Duration // from the start on; 0 is never
	discard bool          // it is never started
	file    bool          // its file is brought out, where there is a guest
	folder  bool          // so is the folder in which that is
	shell   bool          // there is a shell beside the task
	murder  time.Duration // from the start on its guest-tools are killed, if they can be found; 0 is never
	name    string        // in the environment of the task whose guest-tools are killed
}

// choose makes a plan that comes to an end.
func choose(random *rand.Rand, mayDie bool) plan {
	moment := func() time.Duration { return time.Duration(1 + random.Int64N(int64(60*time.Millisecond))) }
	often := func(percent int) bool { return random.IntN(100) < percent }
	p := plan{file: often(30), folder: often(10)}
	p.Files = map[string]string{"out/x": "content"}
	p.Print = strings.Repeat("a line\n", random.IntN(100))
	switch kind := random.IntN(10); {
	case kind < 3:
	case kind < 5:
		p.ExitCode = 1 + random.IntN(100)
	case kind < 6 && mayDie:
		p.dies = true
	case kind < 7:
		p.discard = often(20)
	default:
		p.UntilKilled = true
		if often(20) {
			p.IgnoreKill = 100 * time.Millisecond
		}
	}
	if !mayDie {
		p.shell = often(20)
		if often(5) { // they are looked for among all processes of the system
			p.murder, p.name, p.UntilKilled = moment(), fmt.Sprintf("%x", random.Uint64()), true
		}
	}
	if often(25) {
		p.timeout = moment()
	}
	if often(30) {
		p.kill = moment()
	}
	if often(20) {
		p.abort = moment()
	}
	if p.UntilKilled && p.timeout+p.kill+p.abort+p.murder == 0 {
		p.kill = moment()
	}
	return p
}

// run is one soak.
type run struct {
	*testing.T
	engine   metaservice.Engine
	payload  func(plan) metaservice.Payload
	mayDie   bool
	lag      *contract.Lag // for inTime
	disposed chan struct{} // closed when the engine's Dispose begins

	mu     sync.Mutex // guards counts
	counts map[string]int
}

func soak(t *testing.T, workers int, machine metaservice.Machine, config metaservice.Config, payload func(plan) metaservice.Payload) {
	before, files := goleak.IgnoreCurrent(), openFiles()
	folder, err := os.MkdirTemp("", "soak-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	config.TemporaryFolder = folder
	config.MaxConcurrency = workers // a place that isn't given back at once is missed
	engine, err := metaservice.NewEngine(config, &metaservice.Environment{Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	chosen := *seed
	if chosen == 0 {
		chosen = rand.Uint64()
	}
	r := &run{T: t, engine: engine, payload: payload, mayDie: machine != nil, disposed: make(chan struct{}), counts: make(map[string]int)}
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() { r.work(rand.New(rand.NewPCG(chosen, uint64(i)))) })
	}
	use := sampleFor(lasts())
	close(r.disposed) // what runs just now is ended by the engine's end
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := engine.Dispose(ctx); err != nil {
		t.Errorf("Dispose: %v", err)
	}
	all.Wait()
	fmt.Printf("%s: seed %d, %d sandboxes at once for %s: %s\n", t.Name(), chosen, workers, lasts(), r.account())
	use.judge(t, workers)

	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	goleak.VerifyNone(t, before)
	noneLeft(t, files)
}

func (r *run) account() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	total := 0
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.counts)) {
		fmt.Fprintf(&text, ", %s %d", name, r.counts[name])
		total += r.counts[name]
	}
	if total == 0 {
		r.Error("not one sandbox was run")
	}
	return strings.TrimPrefix(text.String(), ", ")
}

func (r *run) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what]++
}

// ending tells whether the engine is being disposed of.
func (r *run) ending() bool {
	select {
	case <-r.disposed:
		return true
	default:
		return false
	}
}

// work runs one sandbox after the other.
func (r *run) work(random *rand.Rand) {
	for !r.ending() && !r.Failed() {
		p := choose(random, r.mayDie)
		payload := r.payload(p)
		payload.Timeout = metaservice.Duration(p.timeout)
		text, err := json.Marshal(payload)
		if err != nil {
			r.Error(err)
			return
		}
		builder, err := r.engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: text, Log: io.Discard})
		if err != nil {
			r.unlessEnding("NewSandboxBuilder", err)
			return
		}
		if p.discard {
			if err := builder.Discard(); err != nil {
				r.Errorf("Discard: %v", err)
			}
			r.count("discarded")
			continue
		}
		sandbox, err := builder.StartSandbox(context.Background())
		if err != nil {
			r.unlessEnding("StartSandbox", err)
			return
		}
		r.follow(p, sandbox)
	}
}

// unlessEnding reports an error, unless it is the engine's end.
func (r *run) unlessEnding(what string, err error) {
	if !r.ending() || !errors.Is(err, metaservice.ErrSandboxTerminated) {
		r.Errorf("%s: %v", what, err)
	}
}

// end is how a sandbox ended, as one of those saw it who waited.
type end struct {
	result metaservice.ResultSet
	err    error
}

// status is the end in one word; false is a sandbox that had ended, and was released by the engine's end
// before anybody looked.
func (e end) status(r *run) (metaservice.Status, bool) {
	if e.err == nil {
		return e.result.Outcome().Status, true
	}
	if errors.Is(e.err, metaservice.ErrSandboxAborted) {
		return metaservice.StatusAborted, true
	}
	if outcome, ok := errors.AsType[*metaservice.OutcomeError](e.err); ok {
		return outcome.Outcome.Status, true
	}
	r.unlessEnding("WaitForResult", e.err)
	return 0, false
}

// follow carries a plan out, and judges what came of it.
func (r *run) follow(p plan, sandbox metaservice.Sandbox) {
	ended := make(chan struct{})
	call := func(after time.Duration, f func() error) error {
		if after == 0 {
			return errors.New("never called")
		}
		timer := time.NewTimer(after)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ended: // too late calls are wanted too
		}
		return f()
	}
	var killed, aborted error
	var murdered bool
	var callers, waiters sync.WaitGroup
	callers.Go(func() {
		_ = call(p.murder, func() error {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for !murdered {
				murdered = murder(p.name)
				select {
				case <-tick.C:
				case <-ended:
					return nil
				}
			}
			r.count("guest-tools killed")
			return nil
		})
	})
	if p.shell {
		callers.Go(func() { r.talk(sandbox) })
	}
	callers.Go(func() { killed = call(p.kill, sandbox.Kill) })
	callers.Go(func() { aborted = call(p.abort, sandbox.Abort) })
	var ends [2]end
	for i := range ends {
		waiters.Go(func() { ends[i].result, ends[i].err = sandbox.WaitForResult(context.Background()) })
	}
	waiters.Wait()
	close(ended)
	callers.Wait()

	status, ok := ends[0].status(r)
	if other, alsoOK := ends[1].status(r); ok && alsoOK && other != status {
		r.Errorf("one sandbox ended as %s and as %s", status, other)
	}
	if ok {
		r.judge(p, status, killed, aborted, murdered)
		r.count(status.String())
	} else {
		r.count("ended by the engine")
	}
	for _, e := range ends {
		if e.err == nil {
			r.release(p, e.result)
		}
	}
}

// judge holds a status to what was done.
func (r *run) judge(p plan, status metaservice.Status, killed, aborted error, murdered bool) {
	var allowed []metaservice.Status
	switch {
	case aborted == nil:
		allowed = []metaservice.Status{metaservice.StatusAborted}
	case killed == nil:
		allowed = []metaservice.Status{metaservice.StatusKilled}
	case p.dies:
		allowed = []metaservice.Status{metaservice.StatusMachineDied}
	case p.UntilKilled:
	case p.ExitCode != 0:
		allowed = []metaservice.Status{metaservice.StatusFailed}
	default:
		allowed = []metaservice.Status{metaservice.StatusSuccess}
	}
	if p.timeout > 0 && aborted != nil {
		allowed = append(allowed, metaservice.StatusTimedOut)
	}
	if r.ending() {
		allowed = append(allowed, metaservice.StatusAborted)
	}
	if murdered && aborted != nil {
		allowed = append(allowed, metaservice.StatusMachineDied)
	}
	if !slices.Contains(allowed, status) {
		r.Errorf("a sandbox ended as %s, it may only as %v; Kill: %v, Abort: %v, the plan: %+v", status, allowed, killed, aborted, p)
	}
}

// release brings the file out, where that is planned, and disposes.
func (r *run) release(p plan, result metaservice.ResultSet) {
	if p.file {
		// Of a task that was ended nobody knows whether it had come to write the file.
		whole := result.Outcome().Status == metaservice.StatusSuccess
		file, err := result.ExtractFile(context.Background(), "out/x")
		switch {
		case err == nil:
			content, err := io.ReadAll(file)
			if whole && (err != nil || string(content) != "content") {
				r.Errorf("the file holds %q, %v", content, err)
			}
			file.Close()
			r.count("files")
		case whole && !errors.Is(err, metaservice.ErrSandboxTerminated):
			r.Errorf("ExtractFile: %v", err)
		}
	}
	if p.folder {
		r.bringFolder(result)
	}
	if err := result.Dispose(); err != nil {
		r.Errorf("Dispose: %v", err)
	}
}

// bringFolder brings the folder out.
func (r *run) bringFolder(result metaservice.ResultSet) {
	var mu sync.Mutex
	got := make(map[string]string)
	err := result.ExtractFolder(context.Background(), "out", func(name string, file io.ReadSeeker) error {
		content, err := io.ReadAll(file)
		mu.Lock()
		defer mu.Unlock()
		got[name] = string(content)
		return err
	})
	whole := result.Outcome().Status == metaservice.StatusSuccess
	switch {
	case err == nil && whole && (len(got) != 1 || got["x"] != "content"):
		r.Errorf("the folder holds %q", got)
	case err == nil:
		r.count("folders")
	case whole && !errors.Is(err, metaservice.ErrSandboxTerminated):
		r.Errorf("ExtractFolder: %v", err)
	}
}

// talk has a shell beside the task, which may end it at any time.
func (r *run) talk(sandbox metaservice.Sandbox) {
	shell, err := sandbox.OpenShell(context.Background(), metaservice.ShellSpec{Command: []string{"sh", "-c", "cat; echo shell; exit 3"}})
	if err != nil {
		r.count("shells too late")
		return
	}
	defer shell.Abort()                        // too late is fine
	go io.Copy(io.Discard, shell.StderrPipe()) // ends with the shell
	io.WriteString(shell.StdinPipe(), "typed\n")
	shell.StdinPipe().Close()
	output, readErr := io.ReadAll(shell.StdoutPipe())
	result, err := shell.Result(context.Background())
	switch {
	case err != nil:
		r.count("shells that were ended")
	case result.Report != nil && result.Report.Reason != domain.ReasonExited: // with the task
		r.count("shells that were ended")
	case string(output) != "typed\nshell\n" || readErr != nil || result.Report == nil || result.Report.ExitCode != 3:
		r.Errorf("a shell ended with %+v and %q, %v", result.Report, output, readErr)
	default:
		r.count("shells")
	}
}

func openFiles() []string {
	links, _ := filepath.Glob("/proc/self/fd/*")
	var open []string
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			open = append(open, to)
		}
	}
	return open
}

// victim is in the environment of a task whose guest-tools are to be killed.
const victim = "METASERVICE_SOAK_VICTIM"

// murder kills the guest-tools of a task, and tells whether it found any.
func murder(name string) (found bool) {
	for _, pid := range withVariable(victim, name) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		var parent int
		var state string
		if _, err := fmt.Sscan(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), &state, &parent); err != nil {
			continue
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", parent))
		if err == nil && filepath.Base(exe) == "guest-tools" && syscall.Kill(parent, syscall.SIGKILL) == nil {
			found = true
		}
	}
	return found
}

// processesOf finds the processes that have a run's marker in their environment.
func processesOf(run string) []string {
	var found []string
	for _, pid := range withVariable(marker, run) {
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, strings.ReplaceAll(string(command), "\x00", " "))
	}
	return found
}

// withVariable finds the processes that have a variable in their environment.
func withVariable(name, value string) []int {
	var found []int
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		environ, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(environ), "\x00"+name+"="+value+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			found = append(found, pid)
		}
	}
	return found
}
