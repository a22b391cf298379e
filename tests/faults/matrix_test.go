package faults

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/tests/contract"
)

var named = flag.String("cells", "", "the cells of the matrix to run, such as log/reset/amid-body or log/*/*; several are parted by commas")

// atOnce is how many cells run at once: most of what they do is wait.
const atOnce = 12

// What the guest of a cell has, and says.
var (
	logHead   = lines("log", 0, 3000)
	logTail   = lines("log", 3000, 4000)
	artifact  = lines("artifact", 0, 15_000)
	large     = lines("large", 0, 120_000) // enough to take the way by which bytes move past the host's memory
	shellOut  = lines("shell", 0, 8000)
	shellErr  = lines("noise", 0, 24_000) // more than any window that nobody reads
	shellIn   = "what is typed\n"
	listNames = 300
)

// lines are numbered, so that no part of a text is like another.
func lines(word string, from, to int) string {
	var text strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&text, "%s %06d\n", word, i)
	}
	return text.String()
}

// guestFolder makes what the guests of all cells have.
func guestFolder(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	err := errors.Join(
		os.WriteFile(filepath.Join(folder, "file"), []byte(artifact), 0o600),
		os.WriteFile(filepath.Join(folder, "large"), []byte(large), 0o600),
		os.WriteFile(filepath.Join(folder, "small"), []byte("small"), 0o600),
		os.Mkdir(filepath.Join(folder, "folder"), 0o700),
	)
	for i := range listNames {
		err = errors.Join(err, os.WriteFile(filepath.Join(folder, "folder", fmt.Sprintf("file-%04d", i)), nil, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestMatrix(t *testing.T) {
	cells := sampleCells()
	switch {
	case *named != "":
		if cells = chosenCells(*named); len(cells) == 0 {
			t.Fatalf("-cells %s names none", *named)
		}
	case *contract.Long:
		cells = allCells()
	}
	folder := guestFolder(t)
	before, files := goleak.IgnoreCurrent(), openFiles()
	begun := time.Now()
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for _, c := range cells {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			for _, err := range c.prove(t, inside(folder), nil) {
				t.Errorf("%s: %v\nAgain: go test -race ./tests/faults -run TestMatrix -args -cells=%s", c, err, c)
			}
		})
	}
	all.Wait()
	t.Logf("%d of %d cells in %s", len(cells), len(allCells()), time.Since(begun).Round(time.Millisecond))
	if err := goleak.Find(before); err != nil {
		t.Errorf("I11: %v", err)
	}
	var now []string
	gone := comesTrue(func() bool {
		runtime.GC() // package os keeps the pipes that it splices by until the second collection
		now = openFiles()
		return len(now) <= len(files)
	})
	if !gone {
		t.Errorf("I11: descriptors are left: there were %q, there are %q", files, now)
	}
}

// TestSample: every two meet, and no more cells than that takes.
func TestSample(t *testing.T) {
	met := make(map[string]bool)
	for _, c := range sampleCells() {
		met[c.endpoint.name+c.kind.String()], met[c.endpoint.name+c.moment.String()], met[c.kind.String()+c.moment.String()] = true, true, true
	}
	for _, c := range allCells() {
		for _, pair := range []string{c.endpoint.name + c.kind.String(), c.endpoint.name + c.moment.String(), c.kind.String() + c.moment.String()} {
			if !met[pair] {
				t.Errorf("no cell of the sample has %s", pair)
			}
		}
	}
	if n := len(sampleCells()); n > 150 {
		t.Errorf("the sample has %d cells", n)
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

// The times for which a cell's callers wait: what comes right in the end does so within the first.
const (
	callTime = time.Minute
	hopeless = 3 * time.Second
)

// never tells whether the cell's fault is one that nobody can notice in a cell's time: bytes that vanish
// on a connection that may be silent for as long as its task, or for the 45 s of a shell.
func (c cell) never() bool {
	return (c.kind == LoseUp || c.kind == LoseDown) && (c.endpoint.name == "log" || c.endpoint.ask == "shell")
}

// history is what became of a cell's life, for the invariants to be held to.
type history struct {
	cell    cell
	log     string // as the host has it
	outcome domain.Outcome
	ended   error // of the wait for the outcome
	told    []bool
	asked   asked
	after   asked // of a small file, once all is over
	callers []call
	guest   *spy
	answers []answer
	replays map[string]string // what the host says to what was said before
	struck  int
}

// asked is what came of a question to the guest.
type asked struct {
	err      error
	content  []byte // of an artifact, or of a shell's output
	names    int    // of a list
	finished bool   // a shell's end was told
	exit     int
}

// call is how long a caller took beyond its context.
type call struct {
	what string
	late time.Duration
}

// party is a cell's guest.
type party interface {
	leave() []error
	seen(answers []answer) *spy
}

// enter starts a cell's guest, whose task says the rest once finish is closed.
type enter func(w *world, c cell, finish <-chan struct{}) (party, error)

// inside is a guest of this process.
func inside(folder string) enter {
	return func(w *world, c cell, finish <-chan struct{}) (party, error) {
		return w.join(folder, "boot", c.endpoint.old, Programs{Task: task(finish, c.endpoint.exit), Shell: chatter})
	}
}

func (m *member) seen([]answer) *spy { return m.spy }

// prove runs the cell. A machine that stood still amid it has brought a second fault, for as long as the
// parties have patience: what is over too soon or too late then tells nothing, and the cell is run again.
func (c cell) prove(t *testing.T, guest enter, command []string) (wrong []error) {
	t.Helper()
	for range 5 {
		lag := contract.WatchLag()
		wrong = c.run(guest, command)
		lag.Stop()
		timely := slices.ContainsFunc(wrong, func(err error) bool { return !errors.As(err, new(untimelyError)) })
		if len(wrong) == 0 || timely || lag.Most() < leastPatience/4 {
			return wrong
		}
		t.Logf("%s, while the machine stood still for %s: %v", c, lag.Most(), wrong)
	}
	return wrong
}

// run lives the cell's life, and tells what should not be.
func (c cell) run(guest enter, command []string) (wrong []error) {
	w, err := newWorld(setting{limits: limits, command: command})
	if err != nil {
		return []error{err}
	}
	defer os.RemoveAll(w.storage)
	w.proxy.Inject(c.fault())
	h := &history{cell: c}
	asking := make(chan asked, 1)
	start := func() {
		go func() { asking <- h.ask(w.service) }() // ends in time, as I9 says
	}
	if c.endpoint.ask != "kill" {
		start() // so that the first poll has something to do
	}
	finish := make(chan struct{})
	m, err := guest(w, c, finish)
	if err != nil {
		return append(w.close(), err)
	}
	if c.endpoint.ask == "kill" {
		<-w.log.begun // a task that is killed before it begins never does
		start()
	}
	h.asked = <-asking
	close(finish)
	h.end(w, m)
	wrong = append(m.leave(), w.close()...)
	for len(w.told) > 0 {
		h.told = append(h.told, <-w.told)
	}
	h.log, h.answers, h.struck = w.log.String(), w.tape.all(), w.proxy.Struck()
	h.guest = m.seen(h.answers)
	return append(wrong, h.check()...)
}

// task is the guest's: it says something, waits, and says the rest.
func task(finish <-chan struct{}, exit int) Program {
	return func(ctx context.Context, to Streams) int {
		if _, err := io.WriteString(to.Stdout, logHead); err != nil {
			return 1
		}
		select {
		case <-finish:
		case <-ctx.Done():
			return 1
		}
		if _, err := io.WriteString(to.Stdout, logTail); err != nil {
			return 1
		}
		return exit
	}
}

// chatter is the guest's shell: it greets, reads to its input's end, and only then says all (I7), some of
// which nobody reads (I6).
func chatter(_ context.Context, to Streams) int {
	if _, err := io.WriteString(to.Stdout, "hello\n"); err != nil {
		return 1
	}
	typed, err := io.ReadAll(to.Stdin)
	if err != nil {
		return 1
	}
	var both sync.WaitGroup
	both.Go(func() { io.WriteString(to.Stderr, shellErr) })
	_, err = io.WriteString(to.Stdout, string(typed)+shellOut)
	both.Wait()
	if err != nil {
		return 1
	}
	return 7
}

// chatterCommand is the same for a guest that has processes.
var chatterCommand = []string{"sh", "-c", `echo hello; typed=$(cat); seq -f 'noise %06.0f' 0 23999 >&2 & echo "$typed"
	seq -f 'shell %06.0f' 0 7999; wait; exit 7`}

// timed calls f with a context of its own, and notes how late it is.
func (h *history) timed(what string, d time.Duration, f func(ctx context.Context)) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	begun := time.Now()
	f(ctx)
	h.callers = append(h.callers, call{what, time.Since(begun) - d})
}

// ask asks what the endpoint is about.
func (h *history) ask(service *metaservice.MetaService) (a asked) {
	d := callTime
	if h.cell.never() {
		d = hopeless
	}
	h.timed(h.cell.endpoint.ask, d, func(ctx context.Context) {
		switch h.cell.endpoint.ask {
		case "artifact":
			path, _ := h.cell.endpoint.artifact()
			a = fetch(ctx, service, path)
		case "list":
			listing, err := service.Folder(ctx, "folder")
			a = asked{err: err, names: len(listing.Files)}
		case "kill":
			a.err = service.Kill(ctx)
		case "shell":
			a = h.shell(ctx, service)
		}
	})
	return a
}

func fetch(ctx context.Context, service *metaservice.MetaService, path string) asked {
	file, err := service.Artifact(ctx, path)
	if err != nil {
		return asked{err: err}
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	return asked{err: err, content: content}
}

// shell talks to the guest's shell until its end, or ctx's.
func (h *history) shell(ctx context.Context, service *metaservice.MetaService) (a asked) {
	session, err := service.Shell(ctx, metaservice.ShellSpec{Command: chatterCommand})
	if err != nil {
		return asked{err: err}
	}
	stop := context.AfterFunc(ctx, func() { session.Abort() }) // frees what reads and writes
	defer stop()
	session.StderrPipe().Close() // nobody reads it
	var content bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { _, a.err = io.Copy(&content, session.StdoutPipe()) })
	io.WriteString(session.StdinPipe(), shellIn)
	session.StdinPipe().Close()
	result, err := session.Result(ctx)
	reading.Wait()
	a.err = errors.Join(a.err, err)
	a.content, a.finished = content.Bytes(), err == nil
	if result.Report != nil {
		a.exit = result.Report.ExitCode
	}
	session.StdoutPipe().Close()
	return a
}

// end waits for the task's end, asks once more, and says again what was said before.
func (h *history) end(w *world, m party) {
	d := callTime
	if h.cell.never() && h.cell.endpoint.name == "log" {
		d = hopeless
	}
	h.timed("outcome", d, func(ctx context.Context) { h.outcome, h.ended = w.service.Outcome(ctx) })
	h.timed("a file afterwards", callTime, func(ctx context.Context) { h.after = fetch(ctx, w.service, "small") })
	h.replays = make(map[string]string)
	requests := []string{"GET /engine/v1/execute", "PUT /engine/v1/success", "PUT /engine/v1/failed"}
	guest := m.seen(w.tape.all())
	guest.mu.Lock()
	for _, id := range guest.handed {
		requests = append(requests, "POST /engine/v1/reply?id="+string(id))
	}
	guest.mu.Unlock()
	if h.ended != nil {
		requests = requests[3:] // there is no result to contradict
	}
	for _, request := range requests {
		method, target, _ := strings.Cut(request, " ")
		status, code, err := w.direct(method, target)
		h.replays[request] = fmt.Sprint(status, code)
		if err != nil {
			h.replays[request] = err.Error()
		}
	}
}
