//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is the folder with both programs, built once.
var bin string

func TestMain(m *testing.M) {
	status := func() int {
		folder, err := os.MkdirTemp("", "worker-bin-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		bin = folder
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", folder+"/",
			"github.com/hexworker/metaservice/cmd/guest-tools", "github.com/hexworker/metaservice/examples/worker")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
			return 1
		}
		return m.Run()
	}()
	os.Exit(status)
}

// program is a worker that runs.
type program struct {
	t       *testing.T
	out     string
	process *exec.Cmd
	tasks   io.WriteCloser
	results *bufio.Scanner
	errors  bytes.Buffer
}

func start(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{t: t, out: filepath.Join(t.TempDir(), "out")}
	p.process = exec.CommandContext(t.Context(), filepath.Join(bin, "worker"), append([]string{"-out", p.out}, args...)...)
	p.process.Stderr = &p.errors
	tasks, err := p.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	results, err := p.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.tasks, p.results = tasks, bufio.NewScanner(results)
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.process.Process.Kill() // unless it has ended
		_ = p.process.Wait()
	})
	return p
}

func (p *program) send(id, payload string) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.tasks, `{"id": %q, "payload": %s}`+"\n", id, payload); err != nil {
		p.t.Fatal(err)
	}
}

// shell is the payload of a shell's command.
func shell(command string) string {
	text, err := json.Marshal(map[string]any{"command": []string{"sh", "-c", command}, "artifacts": []string{"out", "single", "none"}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// next is the next line of results; false is their end.
func (p *program) next() (Result, bool) {
	p.t.Helper()
	if !p.results.Scan() {
		return Result{}, false
	}
	var result Result
	if err := json.Unmarshal(p.results.Bytes(), &result); err != nil {
		p.t.Fatalf("%q is no result: %v", p.results.Text(), err)
	}
	return result, true
}

// ends waits for the end, and returns the rest of the results.
func (p *program) ends() map[string]Result {
	p.t.Helper()
	results := make(map[string]Result)
	for {
		result, ok := p.next()
		if !ok {
			break
		}
		if _, twice := results[result.ID]; twice {
			p.t.Errorf("%s has two results", result.ID)
		}
		results[result.ID] = result
	}
	if err := p.process.Wait(); err != nil {
		p.t.Errorf("the worker ended with %v: %s", err, p.errors.String())
	}
	return results
}

func (p *program) file(name, want string) {
	p.t.Helper()
	if got, err := os.ReadFile(filepath.Join(p.out, name)); err != nil || string(got) != want {
		p.t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
	}
}

func TestTasksToTheEnd(t *testing.T) {
	p := start(t)
	p.send("good", shell(`echo "task $TASK_ID"; mkdir -p out/deep; printf 1 >out/a; printf 2 >out/deep/b; printf 3 >single; printf 4 >none`))
	p.send("bad", shell("echo oh; exit 3"))
	p.send("malformed", `{"command": "true"}`)
	p.send("../../away", shell("true"))
	p.send("good", shell("true"))
	if _, err := io.WriteString(p.tasks, "nonsense\n"); err != nil {
		t.Fatal(err)
	}
	if err := p.tasks.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		result, ok := p.next()
		if !ok {
			break
		}
		code := "none"
		if result.ExitCode != nil {
			code = fmt.Sprint(*result.ExitCode)
		}
		got = append(got, fmt.Sprintf("%s: %s, exit code %s, %v", result.ID, result.Status, code, result.Artifacts))
	}
	slices.Sort(got)
	want := []string{
		"../../away: rejected, exit code none, []",
		": rejected, exit code none, []",
		"bad: failed, exit code 3, []",
		"good: rejected, exit code none, []",
		"good: success, exit code 0, [artifacts/none artifacts/out/a artifacts/out/deep/b artifacts/single]",
		"malformed: rejected, exit code none, []",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the results are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := p.process.Wait(); err != nil {
		t.Errorf("the worker ended with %v: %s", err, p.errors.String())
	}
	p.file("good/log.txt", "task good\n")
	p.file("good/artifacts/out/deep/b", "2")
	p.file("good/artifacts/single", "3")
	p.file("bad/log.txt", "oh\n")
}

// A worker that was told to end lost the tasks that it had read ahead, or ran them again elsewhere too.
func TestSIGTERMAmidTwentyTasks(t *testing.T) {
	p := start(t, "-at-once", "3", "-grace", "6s")
	enough := filepath.Join(t.TempDir(), "enough")
	for i := range 20 {
		switch {
		case i < 4:
			p.send(fmt.Sprint("quick-", i), shell("echo done"))
		case i == 4: // ends within its grace
			p.send("graceful", shell("echo started; until [ -e "+enough+" ]; do sleep 0.05; done; echo ended"))
		default:
			p.send(fmt.Sprint("endless-", i), shell("mkdir out; printf 1 >out/x; echo started; sleep 1000"))
		}
	}
	results := make(map[string]Result)
	for range 4 {
		result, ok := p.next()
		if !ok {
			t.Fatalf("the worker ended by itself: %s", p.errors.String())
		}
		results[result.ID] = result
	}
	p.await("graceful", "endless-5", "endless-6")
	began := time.Now()
	if err := p.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	first, ok := p.next() // one that it gives back: it has begun to drain
	if !ok {
		t.Fatalf("the worker gave nothing back: %s", p.errors.String())
	}
	results[first.ID] = first
	if err := os.WriteFile(enough, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for id, result := range p.ends() { // though its input stays open
		if _, twice := results[id]; twice {
			t.Errorf("%s has two results", id)
		}
		results[id] = result
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s to end", took)
	}
	if len(results) != 20 {
		t.Errorf("20 tasks have %d results: %v", len(results), slices.Sorted(maps.Keys(results)))
	}
	for id, result := range results {
		want := returned
		switch {
		case strings.HasPrefix(id, "quick"), id == "graceful":
			want = "success"
		case id == "endless-5", id == "endless-6":
			want = "killed"
			p.file(id+"/artifacts/out/x", "1")
		}
		if result.Status != want {
			t.Errorf("%s is %+v, want %s", id, result, want)
		}
		_, err := os.Stat(filepath.Join(p.out, id))
		if begun := err == nil; begun == (want == returned) {
			t.Errorf("%s is %s, and it was begun: %v", id, result.Status, begun)
		}
	}
	p.file("graceful/log.txt", "started\nended\n")
}

// await waits until tasks have begun to run.
func (p *program) await(ids ...string) {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	over := time.After(time.Minute)
	for _, id := range ids {
		for {
			log, _ := os.ReadFile(filepath.Join(p.out, id, "log.txt"))
			if bytes.HasPrefix(log, []byte("started\n")) {
				break
			}
			select {
			case <-tick.C:
			case <-over:
				p.t.Fatalf("%s did not start: %s", id, p.errors.String())
			}
		}
	}
}

// Lines that kept coming kept it draining until its time to stop was over.
func TestSIGTERMAmidAStream(t *testing.T) {
	p := start(t, "-at-once", "1", "-grace", "2s")
	p.send("endless", shell("echo started; sleep 1000"))
	p.await("endless")
	if err := p.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var stream sync.WaitGroup
	stream.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				if _, err := fmt.Fprintf(p.tasks, `{"id": "more-%d", "payload": {}}`+"\n", i); err != nil {
					return // nobody reads any more
				}
			case <-over:
				return
			}
		}
	})
	began := time.Now()
	results := p.ends()
	close(over)
	stream.Wait()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s to end", took)
	}
	if got := results["endless"].Status; got != "killed" {
		t.Errorf("the task that ran is %s", got)
	}
	if got := results["more-0"].Status; got != returned {
		t.Errorf("the first line of the stream is %q", got)
	}
	for i := range len(results) - 1 { // without a gap
		if got := results[fmt.Sprint("more-", i)].Status; got != returned {
			t.Errorf("line %d of the stream is %q", i, got)
		}
	}
}

// It ended the worker, with all that came after it.
func TestLineTooLong(t *testing.T) {
	p := start(t, "-at-once", "1")
	p.send("before", shell("true"))
	p.send("long", shell("true "+strings.Repeat("x", 2*maxLine)))
	p.send("after", shell("true"))
	if err := p.tasks.Close(); err != nil {
		t.Fatal(err)
	}
	results := p.ends()
	if len(results) != 3 || results[""].Status != rejected || results["before"].Status != "success" || results["after"].Status != "success" {
		t.Errorf("the results are %+v", results)
	}
}

func TestNextLine(t *testing.T) {
	longest := strings.Repeat("x", maxLine)
	lines := bufio.NewReader(strings.NewReader("a\n\n" + longest + "\n" + longest + "x\nlast"))
	for i, want := range []string{"a", "", longest, "too long", "last", "end"} {
		line, err := nextLine(lines)
		got := string(line)
		switch {
		case errors.Is(err, errTooLong):
			got = "too long"
		case errors.Is(err, io.EOF):
			got = "end"
		case err != nil:
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("line %d is %.20q with %d bytes, want %.20q", i, got, len(got), want)
		}
	}
}

// The second overwrote the first, and both were told as one file twice.
func TestArtifactsOfOneName(t *testing.T) {
	elsewhere := t.TempDir() // which the guest has too, and below its own folder once more
	for _, name := range []string{"clash", "free"} {
		if err := os.WriteFile(filepath.Join(elsewhere, name), []byte("theirs"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	below := strings.TrimPrefix(elsewhere, "/")
	payload, err := json.Marshal(map[string]any{
		"command":   []string{"sh", "-c", `mkdir -p "$0" && printf ours >"$0/clash"`, below},
		"artifacts": []string{below, below + "/clash", "./" + below + "/", below, elsewhere},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t)
	p.send("names", string(payload))
	if err := p.tasks.Close(); err != nil {
		t.Fatal(err)
	}
	result := p.ends()["names"]
	to := "artifacts/" + below
	if want := []string{to + "/clash", to + "/free"}; !slices.Equal(result.Artifacts, want) {
		t.Errorf("the artifacts are %q, want %q", result.Artifacts, want)
	}
	if result.Status != "success" || strings.Count(result.Error, errTaken.Error()) != 1 || !strings.Contains(result.Error, fmt.Sprintf("artifact %q", elsewhere)) {
		t.Errorf("the result is %+v", result)
	}
	p.file("names/"+to+"/clash", "ours")
	p.file("names/"+to+"/free", "theirs")
}

// fx told it with a stack of many lines.
func TestNoOutputFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), filepath.Join(bin, "worker"), "-out", filepath.Join(file, "out")).CombinedOutput()
	if err == nil || strings.Count(string(output), "\n") != 1 || !strings.Contains(string(output), "output folder") {
		t.Errorf("it ended with %v and told %q", err, output)
	}
}
