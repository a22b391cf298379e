//go:build linux

package threats

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/tests/contract"
)

// roleName is the environment variable that makes the test binary something else: a host, or an attacker.
const roleName = "METASERVICE_THREATS_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleName) {
	case "host":
		os.Exit(playHost())
	case "attacker":
		os.Exit(playAttacker())
	}
	flag.Parse()
	// The parallel tests are those that wait. What is measured isn't parallel to anything.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// often is a count as it is in CI, or as it is claimed.
func often(short, long int) int {
	if *contract.Long {
		return long
	}
	return short
}

// patience is how long anything may take that isn't measured.
func patience() time.Duration { return time.Duration(often(2, 60)) * time.Minute }

// play starts this binary in a role, in a folder, and in namespaces of its own if any. It dies with the test,
// and is killed at its end.
func play(t *testing.T, role, folder string, unshare uintptr) (stdin io.WriteCloser, stdout io.ReadCloser, process *exec.Cmd) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process = exec.Command(binary)
	process.Dir = folder
	process.Env = append(os.Environ(), roleName+"="+role)
	process.Stderr = os.Stderr
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Unshareflags: unshare}
	stdin, err = process.StdinPipe()
	if err == nil {
		stdout, err = process.StdoutPipe()
	}
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	return stdin, stdout, process
}

// host is a host in a process of its own.
type host struct {
	folder string // its log, its artifacts, its guests' logs: see playHost
	guests []string
	spec   HostSpec
	client *rpc.Client
}

// startHost starts a host. At the test's end it is closed, and must leave nothing behind (invariant 11).
func startHost(t *testing.T, spec HostSpec) *host {
	t.Helper()
	folder, err := os.MkdirTemp("", "threat-*") // a socket's path has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	spec.Folder = folder
	var unshare uintptr
	if spec.Disk > 0 {
		needRoot(t)
		unshare = syscall.CLONE_NEWNS
	}
	stdin, stdout, _ := play(t, "host", folder, unshare)
	h := &host{folder: folder, spec: spec, client: jsonrpc.NewClient(stdio{stdout, stdin})}
	if err := h.client.Call("Host.Start", spec, &h.guests); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.close(t) })
	return h
}

// close ends the host's services and looks for what is left.
func (h *host) close(t *testing.T) {
	t.Helper()
	var left Left
	h.call(t, "Close", struct{}{}, &left)
	if len(left.Things) > 0 {
		t.Errorf("the closed host has left: %q", left.Things)
	}
	h.client.Close()
}

// call calls a method of Host.
func (h *host) call(t *testing.T, method string, args, reply any) {
	t.Helper()
	select {
	case call := <-h.client.Go("Host."+method, args, reply, make(chan *rpc.Call, 1)).Done:
		if call.Error != nil {
			t.Fatalf("%s: %v", method, call.Error)
		}
	case <-time.After(patience()):
		t.Fatalf("%s: no answer", method)
	}
}

// begin calls a method of Host; the channel has its reply.
func begin[Reply any](t *testing.T, h *host, method string, args any) <-chan Reply {
	t.Helper()
	done := make(chan Reply, 1)
	reply := new(Reply)
	call := h.client.Go("Host."+method, args, reply, make(chan *rpc.Call, 1))
	go func() {
		if err := (<-call.Done).Error; err != nil && !errors.Is(err, rpc.ErrShutdown) {
			t.Errorf("%s: %v", method, err)
		}
		done <- *reply
	}()
	return done
}

// artifact asks guest 0 for a file.
func (h *host) artifact(t *testing.T, path string) <-chan Got {
	t.Helper()
	return begin[Got](t, h, "Artifact", Ask{Path: path})
}

// list asks guest 0 for a folder's list.
func (h *host) list(t *testing.T, path string) <-chan Listed {
	t.Helper()
	return begin[Listed](t, h, "List", Ask{Path: path})
}

// usage is what the host has used so far. Its heap is measured after a collection.
func (h *host) usage(t *testing.T) Usage {
	t.Helper()
	var usage Usage
	h.call(t, "Usage", struct{}{}, &usage)
	return usage
}

// counts is usage without the heap.
func (h *host) counts(t *testing.T) Usage {
	t.Helper()
	var usage Usage
	h.call(t, "Counts", struct{}{}, &usage)
	return usage
}

// within waits for what comes in time, whatever the machine does meanwhile.
func within[T any](t *testing.T, limit time.Duration, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(limit):
		t.Fatalf("%s: nothing after %s", what, limit)
	}
	panic("unreachable")
}

// eventually waits for check to find nothing wrong.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("it doesn't come to pass that %s: %v", what, err)
}

// attacker is an attacker in a process of its own.
type attacker struct {
	name  string
	stdin io.WriteCloser
	said  chan string
	tally chan Tally
}

// attack starts the attacker of a name against a host's first guest's address.
func attack(t *testing.T, h *host, name string, args map[string]string) *attacker {
	t.Helper()
	return attackGuest(t, h, 0, name, args)
}

func attackGuest(t *testing.T, h *host, guest int, name string, args map[string]string) *attacker {
	t.Helper()
	if attackers[name] == nil {
		t.Fatalf("there is no attacker %q", name)
	}
	stdin, stdout, _ := play(t, "attacker", h.folder, 0)
	a := &attacker{name: name, stdin: stdin, said: make(chan string, 1<<16), tally: make(chan Tally, 1)}
	if err := json.NewEncoder(stdin).Encode(raidSpec{Name: name, Network: h.spec.Network, Address: h.guests[guest], Args: args}); err != nil {
		t.Fatal(err)
	}
	go func() {
		for words := json.NewDecoder(stdout); ; {
			var word word
			if words.Decode(&word) != nil {
				close(a.said)
				close(a.tally)
				return
			}
			if word.Tally != nil {
				a.tally <- *word.Tally
			} else {
				a.said <- word.Said
			}
		}
	}()
	return a
}

// hears waits for the attacker to say something.
func (a *attacker) hears(t *testing.T, what string) {
	t.Helper()
	for {
		said, ok := <-a.said
		if said == what {
			return
		}
		if !ok {
			t.Fatalf("%s has ended and never said %q; it has %+v", a.name, what, <-a.tally)
		}
	}
}

// wait waits for the attack to end by itself.
func (a *attacker) wait(t *testing.T) Tally {
	t.Helper()
	tally := within(t, patience(), a.name, a.tally)
	if tally.Err != "" {
		t.Fatalf("%s: %s", a.name, tally.Err)
	}
	return tally
}

// stop ends the attack.
func (a *attacker) stop(t *testing.T) Tally {
	t.Helper()
	a.stdin.Close()
	return a.wait(t)
}

// stdio is a process's two pipes as one.
type stdio struct {
	io.ReadCloser
	in io.WriteCloser
}

func (s stdio) Write(p []byte) (int, error) { return s.in.Write(p) }
func (s stdio) Close() error                { return errors.Join(s.in.Close(), s.ReadCloser.Close()) }

// Failure is an error that came from another process.
type Failure struct {
	Text  string
	Kinds []string // the known ones among what it wraps
	Limit string   // of a LimitError
}

// kinds are the errors that Failure.Is knows.
var kinds = []error{
	metaservice.ErrResourceNotFound, metaservice.ErrNonFatalInternalError, metaservice.ErrShellTerminated,
	metaservice.ErrShellAborted, metaservice.ErrSandboxTerminated, metaservice.ErrFeatureNotSupported,
	metaservice.ErrLogIncomplete, metaservice.ErrGuestLost, domain.ErrNoPoll, domain.ErrNoReply,
	domain.ErrBrokenReply, domain.ErrSlowReply, domain.ErrInvalidReply, domain.ErrGuestError, domain.ErrStorage,
	io.EOF, io.ErrUnexpectedEOF,
}

func failure(err error) Failure {
	if err == nil {
		return Failure{}
	}
	f := Failure{Text: err.Error()}
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			f.Kinds = append(f.Kinds, kind.Error())
		}
	}
	if limit, ok := errors.AsType[*metaservice.LimitError](err); ok {
		f.Limit = limit.Limit
	}
	return f
}

func (f Failure) failed() bool { return f.Text != "" }

// is is errors.Is for what kinds holds.
func (f Failure) is(err error) bool {
	if !slices.Contains(kinds, err) {
		panic(fmt.Sprintf("kinds lacks %v", err))
	}
	return slices.Contains(f.Kinds, err.Error())
}
