package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a guest among fakes, within a bubble.
type world struct {
	*testing.T
	peer      *contract.Peer
	host      *fakeHost
	processes *fakeProcesses
	process   *fakeProcess
	log       *logBook
	config    Config
	guest     *Guest
	cancel    context.CancelFunc
	ended     chan error
}

// inBubble runs a test. prepare may change the world before the guest runs; when the test is over, the
// guest is ended, and the bubble sees to it that nothing of it is left.
func inBubble(t *testing.T, prepare, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		peer := contract.NewPeer()
		peer.Features = domain.Features{domain.FeatureResult}
		peer.Task = domain.Execute{Command: []string{"work"}}
		w := &world{
			T: t, peer: peer, host: newFakeHost(peer), process: newFakeProcess(), log: &logBook{}, ended: make(chan error, 1),
		}
		w.processes = &fakeProcesses{process: w.process}
		w.config = Config{
			Host: w.host, Files: fakeFiles{"/file": "content"}, Processes: w.processes, Logger: w.log.logger(),
			Version: "test", BootID: "boot", Terminal: true,
		}
		prepare(w)
		var err error
		if w.guest, err = New(w.config); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w.cancel = cancel
		go func() { w.ended <- w.guest.Run(ctx) }()
		synctest.Wait()
		test(w)
		w.end()
		if t.Failed() {
			t.Logf("the guest's log:\n%s", w.log)
		}
	})
}

func asItIs(*world) {}

// end ends the guest.
func (w *world) end() {
	w.cancel()
	if err := <-w.ended; err != nil {
		w.Errorf("Run returned %v", err)
	}
	w.ended <- nil
}

// settle waits until nothing happens any more by itself.
func (w *world) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// write is what the task says.
func (w *world) write(text string) {
	w.Helper()
	if _, err := io.WriteString(w.process.w, text); err != nil {
		w.Errorf("the task can't write: %v", err)
	}
	w.settle(2 * logGather) // nothing small is held back for longer
}

// finish ends the task and its output.
func (w *world) finish(report domain.Report) {
	w.process.exit(report)
	w.process.w.Close()
	w.settle(2 * logGather)
}

func (w *world) same(what string, want, got any) {
	w.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (w *world) offer(action domain.Action, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	w.peer.Actions <- action
	synctest.Wait()
}

var success = domain.Report{Reason: domain.ReasonExited}

// A host that has the result and not yet the log's end would call the log incomplete, or close it.
func TestLogEndsBeforeTheResult(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.write("hello\n")
		w.settle(0)
		w.same("the log before the end", "hello\n", w.peer.Seen().Log)
		w.write("last words")
		w.finish(success)
		w.same("what the host saw", []string{"hello", "execute", "log", "logged", "resolve true"}, w.host.saw("poll"))
		seen := w.peer.Seen()
		w.same("the log", "hello\nlast words", seen.Log)
		w.same("the results", []domain.Result{{Success: true, Report: &success}}, seen.Results)
		w.same("the boot", "boot", seen.Hellos[0].BootID)
		w.same("polls so far", 1, len(w.host.times("poll")))
		if !w.process.alive() {
			w.Error("what the task left behind was ended with it: only a kill or the guest's end does that")
		}
	})
}

// alive tells whether nobody closed the process.
func (p *fakeProcess) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed && len(p.kills) == 0
}

func TestServesAfterTheTask(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.finish(success)
		w.settle(time.Hour)
		w.offer(domain.GetArtifact("1", "/file"))
		w.same("replies", []contract.Reply{{ID: "1", Content: []byte("content")}}, w.peer.Seen().Replies)
		w.end()
		if !w.process.closed {
			w.Error("the process was not closed at the end")
		}
	})
}

// The end of the command isn't the end of its output.
func TestOutputAfterTheCommand(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.process.exit(success)
		w.settle(time.Second)
		w.write("from a child")
		w.same("results while there is output", 0, len(w.peer.Seen().Results))
		w.process.w.Close()
		w.settle(0)
		w.same("the log", "from a child", w.peer.Seen().Log)
		w.same("results", 1, len(w.peer.Seen().Results))
	})
}

func TestFailure(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		report := domain.Report{ExitCode: 3, Reason: domain.ReasonExited}
		w.finish(report)
		w.same("the results", []domain.Result{{Report: &report}}, w.peer.Seen().Results)
	})
}

func TestWhatIsStarted(t *testing.T) {
	inBubble(t, func(w *world) {
		w.config.Entrypoint = []string{"enter", "-c"}
		w.config.Environ = []string{"PATH=/bin", "A=environ", "B=environ", "C=environ"}
		w.config.Env = map[string]string{"B": "config", "C": "config", "D": ""}
		w.peer.Task = domain.Execute{Env: map[string]string{"C": "task"}, Command: []string{"work", ""}}
		w.config.User, w.config.Dir = "worker", "/home/worker"
	}, func(w *world) {
		w.same("specs", []ports.ProcessSpec{{
			Command:  []string{"enter", "-c", "work", ""},
			Env:      []string{"PATH=/bin", "A=environ", "B=environ", "C=environ", "B=config", "C=config", "D=", "C=task"},
			Dir:      "/home/worker",
			User:     "worker",
			Terminal: &ports.TerminalSize{Columns: 80, Rows: 24},
		}}, w.processes.starts())
		w.finish(success)
	})
}

func TestWithoutATerminal(t *testing.T) {
	inBubble(t, func(w *world) { w.config.Terminal = false }, func(w *world) {
		if w.processes.starts()[0].Terminal != nil {
			w.Error("there is a terminal")
		}
	})
}

// A command that doesn't exist crashed the ancestor, so that its task never ended.
func TestCommandThatCantStart(t *testing.T) {
	why := errors.New("command \"foo\" not found on PATH\n/bin")
	inBubble(t, func(w *world) { w.processes.fails = &ports.StartError{ExitCode: 127, Err: why} }, func(w *world) {
		w.same("the log", "guest-tools: command \"foo\" not found on PATH /bin\n", w.peer.Seen().Log)
		report := domain.Report{ExitCode: 127, Reason: domain.ReasonStartFailed, Message: why.Error()}
		w.same("the results", []domain.Result{{Report: &report}}, w.peer.Seen().Results)
		w.offer(domain.KillProcess("k"))
		w.same("the reply to a kill", []contract.Reply{{ID: "k"}}, w.peer.Seen().Replies)
	})
}

func TestNothingToRun(t *testing.T) {
	inBubble(t, func(w *world) { w.peer.Task = domain.Execute{} }, func(w *world) {
		if log := w.peer.Seen().Log; !strings.Contains(log, "no command") || !strings.HasPrefix(log, "guest-tools: ") {
			w.Errorf("the log is %q", log)
		}
		w.same("starts", 0, len(w.processes.starts()))
		w.same("reason", domain.ReasonStartFailed, w.peer.Seen().Results[0].Report.Reason)
	})
}

func TestTaskThatNoSystemCouldRun(t *testing.T) {
	bad := fmt.Errorf("%w: argument 1 holds a NUL byte", domain.ErrInvalidExecute)
	inBubble(t, func(w *world) { w.host.refuse["execute"] = bad }, func(w *world) {
		w.same("asked", 1, len(w.host.times("execute")))
		if log := w.peer.Seen().Log; !strings.Contains(log, "NUL byte") {
			w.Errorf("the log is %q", log)
		}
		w.same("reason", domain.ReasonStartFailed, w.peer.Seen().Results[0].Report.Reason)
	})
}

// A guest that rebooted would run its task twice.
func TestTaskThatHasItsResult(t *testing.T) {
	inBubble(t, func(w *world) { w.host.refuse["execute"] = &domain.Error{Code: domain.CodeResourceConflict} }, func(w *world) {
		w.settle(time.Hour)
		w.same("what the host saw", []string{"hello", "execute"}, w.host.saw("poll"))
		w.same("starts", 0, len(w.processes.starts()))
		w.offer(domain.GetArtifact("1", "/file"))
		w.offer(domain.KillProcess("2"))
		w.same("replies", 2, len(w.peer.Seen().Replies))
	})
}

func TestHostThatIsNotThereYet(t *testing.T) {
	inBubble(t, func(w *world) { w.host.away = errAway }, func(w *world) {
		w.settle(20 * time.Second)
		var want []time.Duration
		for _, ms := range []int{0, 100, 300, 700, 1500, 3100, 6300, 11300, 16300} {
			want = append(want, time.Duration(ms)*time.Millisecond)
		}
		w.same("tries", want, w.host.times("hello"))
		w.same("told that it isn't there", 1, w.log.count("the host is not there yet"))
		w.same("told that it is", 0, w.log.count("the host is there"))
		w.host.goAway(nil)
		w.settle(10 * time.Second)
		w.same("told that it is", 1, w.log.count("the host is there"))
		w.same("starts", 1, len(w.processes.starts()))
	})
}

func TestExecuteRefused(t *testing.T) {
	inBubble(t, func(w *world) { w.host.refuse["execute"] = &domain.Error{Code: domain.CodeForbidden, Message: "no"} }, func(w *world) {
		w.settle(time.Minute)
		w.same("told", 1, w.log.count("the host refuses to say what to run"))
		if n := len(w.host.times("execute")); n < 10 || n > 20 {
			w.Errorf("it was asked %d times in a minute", n)
		}
		w.host.set(func() { delete(w.host.refuse, "execute") })
		w.settle(5 * time.Second)
		w.same("starts", 1, len(w.processes.starts()))
	})
}

func TestHostOfVersion1(t *testing.T) {
	old := &domain.Error{Code: domain.CodeNoSuchEndPoint}
	inBubble(t, func(w *world) { w.host.refuse["hello"] = old }, func(w *world) {
		w.host.goAway(errAway)
		w.settle(time.Minute)
		w.host.goAway(nil)
		w.settle(time.Minute)
		w.finish(success)
		w.settle(time.Second)
		w.same("results", []domain.Result{{Success: true}}, w.peer.Seen().Results)
		w.same("hellos", 1, len(w.host.times("hello")))
	})
}

func TestHelloRefused(t *testing.T) {
	inBubble(t, func(w *world) { w.host.refuse["hello"] = &domain.Error{Code: domain.CodeInvalidPayload} }, func(w *world) {
		w.finish(success)
		w.same("results", []domain.Result{{Success: true}}, w.peer.Seen().Results)
	})
}

// The host that comes back may be another one, which doesn't know of this guest.
func TestHelloAgainAfterAnOutage(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.host.goAway(errAway)
		w.settle(3 * time.Minute)
		w.same("told that it went", 1, w.log.count("the host has gone away"))
		w.same("hellos that arrived", 1, len(w.peer.Seen().Hellos))
		w.host.goAway(nil)
		w.settle(10 * time.Second)
		hellos := w.peer.Seen().Hellos
		if len(hellos) != 2 || hellos[0].BootID != hellos[1].BootID {
			w.Errorf("the hellos are %v, want two with the same boot", hellos)
		}
		w.same("told that it is back", 1, w.log.count("came back is picked up again"))
		w.offer(domain.GetArtifact("1", "/file"))
		w.same("replies", 1, len(w.peer.Seen().Replies))
		w.finish(success)
		w.settle(time.Second) // the log's connection, too, turns out to be broken
		w.same("results", []domain.Result{{Success: true, Report: &success}}, w.peer.Seen().Results)
	})
}

func TestResultWhileTheHostIsAway(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.host.set(func() { w.host.refuse["resolve"] = errAway })
		w.finish(success)
		w.settle(time.Minute)
		if n := len(w.host.times("resolve")); n < 10 || n > 20 {
			w.Errorf("%d tries in a minute", n)
		}
		w.host.set(func() { delete(w.host.refuse, "resolve") })
		w.settle(5 * time.Second)
		w.same("results", 1, len(w.peer.Seen().Results))
	})
}

func TestResultRefused(t *testing.T) {
	for code, again := range map[domain.Code]bool{
		domain.CodeResourceConflict: false, domain.CodeInvalidPayload: false,
		domain.CodeInternalError: true, domain.CodeTooManyRequests: true,
	} {
		inBubble(t, func(w *world) { w.host.refuse["resolve"] = &domain.Error{Code: code} }, func(w *world) {
			w.finish(success)
			w.settle(time.Minute)
			if n := len(w.host.times("resolve")); n == 0 || again != (n > 1) {
				w.Errorf("%s: %d tries, again: want %v", code, n, again)
			}
			w.same("told", 1, w.log.count("refusal="))
		})
	}
}

// The end of the guest is the task's, and nobody may take it for the task's own.
func TestEndWithATaskRunning(t *testing.T) {
	inBubble(t, func(w *world) { w.process.dies = 2 * time.Second }, func(w *world) {
		w.write("at work")
		start := time.Now()
		w.end()
		w.same("time", 2*time.Second, time.Since(start))
		w.same("kills", []time.Duration{KillGrace}, w.process.kills)
		w.same("the log", "at work", w.peer.Seen().Log)
		w.same("results", 0, len(w.peer.Seen().Results))
		if !w.process.closed {
			w.Error("the process was not closed")
		}
	})
}

func TestEndInAHurry(t *testing.T) {
	inBubble(t, func(w *world) { w.process.dies = time.Hour }, func(w *world) {
		start := time.Now()
		time.AfterFunc(time.Second, w.guest.Hurry)
		w.end()
		w.same("time", time.Second, time.Since(start))
	})
}

// A file system that holds up the start of the command must not hold up an end in a hurry, nor a kill the
// end. What starts after all is ended.
func TestEndInAHurryWhileTheCommandStarts(t *testing.T) {
	inBubble(t, func(w *world) { w.processes.slow = time.Hour }, func(w *world) {
		w.offer(domain.KillProcess("kill"))
		start := time.Now()
		time.AfterFunc(time.Second, w.guest.Hurry)
		w.cancel()
		err := <-w.ended
		w.ended <- nil
		w.same("time", time.Second, time.Since(start))
		if err == nil || !strings.Contains(err.Error(), "still being started") {
			w.Errorf("Run returned %v", err)
		}
		w.same("the kill is answered", 0, len(w.peer.Seen().Replies))
		w.settle(time.Hour)
		if !w.process.closed {
			w.Error("what started after all was left")
		}
		w.same("results", 0, len(w.peer.Seen().Results))
	})
}

func TestEndWhileTheHostTakesNothing(t *testing.T) {
	inBubble(t, func(w *world) { w.host.logStall = make(chan struct{}) }, func(w *world) {
		go w.process.w.Write(make([]byte, 8<<20))
		w.settle(time.Minute)
		start := time.Now()
		w.end()
		w.same("time", goodbye, time.Since(start))
	})
}

// A task that ended by itself just before its guest does has a result.
func TestEndWithAResultOnItsWay(t *testing.T) {
	inBubble(t, func(w *world) { w.host.logStall = make(chan struct{}) }, func(w *world) {
		w.finish(success)
		time.AfterFunc(time.Second, func() { close(w.host.logStall) })
		w.end()
		w.same("results", 1, len(w.peer.Seen().Results))
	})
}

func TestEndBeforeTheTask(t *testing.T) {
	inBubble(t, func(w *world) { w.host.away = errAway }, func(w *world) {
		w.end()
		w.same("starts", 0, len(w.processes.starts()))
	})
}

func TestConfigThatCantBe(t *testing.T) {
	host := newFakeHost(contract.NewPeer())
	for name, config := range map[string]Config{
		"no host":      {Files: fakeFiles{}, Processes: &fakeProcesses{}, BootID: "b"},
		"no files":     {Host: host, Processes: &fakeProcesses{}, BootID: "b"},
		"no processes": {Host: host, Files: fakeFiles{}, BootID: "b"},
		"no boot":      {Host: host, Files: fakeFiles{}, Processes: &fakeProcesses{}},
		"long version": {Host: host, Files: fakeFiles{}, Processes: &fakeProcesses{}, BootID: "b", Version: strings.Repeat("x", 300)},
	} {
		if _, err := New(config); !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Config{Host: host, Files: fakeFiles{}, Processes: &fakeProcesses{}, BootID: "b"}); err != nil {
		t.Error(err)
	}
}

func TestPostLog(t *testing.T) {
	peer := contract.NewPeer()
	host := newFakeHost(peer)
	text := strings.Repeat("line\n", 50_000)
	n, err := PostLog(t.Context(), host, strings.NewReader(text))
	if n != int64(len(text)) || err != nil || peer.Seen().Log != text || !slices.Equal(peer.Seen().LogEnds, []error{io.EOF}) {
		t.Errorf("%d of %d bytes, %v", n, len(text), err)
	}
	peer.LogFails = &domain.Error{Code: domain.CodeInternalError}
	if _, err := PostLog(t.Context(), host, strings.NewReader(text)); !errors.Is(err, peer.LogFails) {
		t.Errorf("a log that the host refuses: %v", err)
	}
	peer.LogFails = nil
	unreadable := errors.New("unreadable")
	_, err = PostLog(t.Context(), host, io.MultiReader(strings.NewReader(text), failing{unreadable}))
	if ends := peer.Seen().LogEnds; !errors.Is(err, unreadable) || len(ends) != 2 || ends[1] == io.EOF {
		t.Errorf("a file that can't be read to its end: %v; the log ended with %v, which must not look whole", err, ends)
	}
}

// TestPostLogAsksAgain posts to a host that has too much to do: it took nothing, so nothing is lost, and
// nothing is there twice. What is too long to be kept fails, and what is refused for another reason.
func TestPostLogAsksAgain(t *testing.T) {
	busy := &domain.Error{Code: domain.CodeTooManyRequests, Message: "later"}
	for name, text := range map[string]string{"empty": "", "a line": "line\n", "as much as is kept": strings.Repeat("x", postKept)} {
		synctest.Test(t, func(t *testing.T) {
			peer := contract.NewPeer()
			host := &busyHost{fakeHost: newFakeHost(peer), refusal: busy, until: time.Now().Add(40 * time.Second)}
			n, err := PostLog(t.Context(), host, iotest.OneByteReader(strings.NewReader(text)))
			if n != int64(len(text)) || err != nil || peer.Seen().Log != text {
				t.Errorf("%s: %d bytes, %v; the log has %d", name, n, err, len(peer.Seen().Log))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		host := &busyHost{fakeHost: newFakeHost(contract.NewPeer()), refusal: busy, until: time.Now().Add(time.Hour)}
		start := time.Now()
		if _, err := PostLog(t.Context(), host, strings.NewReader("line\n")); !errors.Is(err, busy) {
			t.Errorf("a host that never has time: %v", err)
		}
		if took := time.Since(start); took < 45*time.Second || took > time.Minute {
			t.Errorf("it was asked for %s, for close to a minute was meant", took)
		}
		start = time.Now()
		long := strings.NewReader(strings.Repeat("x", postKept+logBlock))
		if _, err := PostLog(t.Context(), host, long); !errors.Is(err, busy) || time.Since(start) > time.Second {
			t.Errorf("more than is kept: %v after %s", err, time.Since(start))
		}
	})
}

// busyHost refuses logs for a while.
type busyHost struct {
	*fakeHost
	refusal *domain.Error
	until   time.Time
}

func (h *busyHost) OpenLog(ctx context.Context) (ports.LogStream, error) {
	if time.Now().After(h.until) {
		return h.fakeHost.OpenLog(ctx)
	}
	peer := contract.NewPeer()
	peer.LogFails = h.refusal
	return newFakeHost(peer).OpenLog(ctx)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
