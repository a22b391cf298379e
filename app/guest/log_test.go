package guest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// numbered is text of which any part can be told from any other.
func numbered(lines int) string {
	var text strings.Builder
	for i := range lines {
		fmt.Fprintf(&text, "this is line %06d of the output\n", i)
	}
	return text.String()
}

// inOrder tells whether part is whole with some pieces missing, and nothing twice.
func inOrder(whole, part string) bool {
	last := -1
	for line := range strings.Lines(part) {
		var n int
		if _, err := fmt.Sscanf(line, "this is line %d of the output\n", &n); err != nil {
			continue // cut where the connection broke
		}
		if n <= last {
			return false
		}
		last = n
	}
	return strings.HasSuffix(part, whole[len(whole)-33:])
}

// The ancestor hung, or reported a success with half its log. The host may not know that some is missing:
// what was lost may never have come as far as to it.
func TestLogThatBreaksGoesOn(t *testing.T) {
	inBubble(t, func(w *world) { w.host.logLimit = 100_000 }, func(w *world) {
		text := numbered(10_000)
		w.write(text)
		w.finish(success)
		w.settle(time.Minute)
		seen := w.peer.Seen()
		if !inOrder(text, seen.Log) || len(seen.LogEnds) < 3 || seen.LogEnds[len(seen.LogEnds)-1] != io.EOF {
			w.Errorf("of %d bytes %d came, in %d bodies that ended with %v", len(text), len(seen.Log), len(seen.LogEnds), seen.LogEnds)
		}
		if len(seen.Results) != 1 || seen.Results[0].Success || !strings.Contains(seen.Results[0].Report.Message, "the log was not delivered whole") {
			w.Errorf("the results are %v", seen.Results)
		}
		w.same("told", 1, w.log.count("part of the log is missing"))
		w.same("bounded from below", 1, w.log.count("lostOnTheWay=\"at least "))
	})
}

// While the host is away, the task goes on until the buffer is full, and then waits.
func TestOutputWhileTheHostIsAway(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.host.goAway(errAway)
		text := numbered(100_000) // 3.3 MB
		written := make(chan int, 1)
		go func() {
			n, _ := io.WriteString(w.process.w, text)
			written <- n
		}()
		w.settle(10 * time.Minute)
		w.same("told", 1, w.log.count("the log's connection broke"))
		select {
		case n := <-written:
			w.Fatalf("%d bytes went somewhere without a host", n)
		default:
		}
		w.host.goAway(nil)
		w.settle(10 * time.Second)
		w.same("written", len(text), <-written)
		w.finish(success)
		w.settle(10 * time.Second)
		if log := w.peer.Seen().Log; log != text {
			w.Errorf("%d bytes of the log came, want %d: nothing was on its way when the host went", len(log), len(text))
		}
		w.same("results", 1, len(w.peer.Seen().Results))
	})
}

// A host that never comes back must not keep a task from ending.
func TestLogWithoutAHostIsDropped(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.host.set(func() { w.host.refuse["log"] = errAway })
		for log := range w.host.bodies {
			log.fail(errAway)
		}
		go func() {
			io.WriteString(w.process.w, numbered(100_000))
			w.process.w.Close()
		}()
		w.settle(time.Minute)
		start := time.Now()
		w.process.exit(success)
		w.settle(LogPatience - time.Second)
		w.same("results while the host may come back", 0, len(w.peer.Seen().Results))
		w.settle(2 * time.Second)
		results := w.peer.Seen().Results
		if len(results) != 1 || results[0].Success {
			w.Fatalf("%s after the task's end there are the results %v", time.Since(start), results)
		}
		if !strings.Contains(results[0].Report.Message, "took nothing for 1m0s") {
			w.Errorf("the report doesn't say what is missing: %v", results[0].Report)
		}
		w.same("told", 1, w.log.count("dropped=3"))
	})
}

// A host that takes nothing for a while, but is there, is waited for: its user may have stopped it.
func TestSlowHostIsWaitedFor(t *testing.T) {
	inBubble(t, func(w *world) { w.host.logStall = make(chan struct{}) }, func(w *world) {
		text := numbered(1000)
		w.write(text)
		w.finish(success)
		w.settle(time.Hour)
		w.same("results", 0, len(w.peer.Seen().Results))
		close(w.host.logStall)
		w.settle(0)
		w.same("the log", text, w.peer.Seen().Log)
		w.same("results", 1, len(w.peer.Seen().Results))
	})
}

// The same host, but it answers nothing else either.
func TestSilentHostIsNot(t *testing.T) {
	inBubble(t, func(w *world) { w.host.logStall = make(chan struct{}) }, func(w *world) {
		w.write("text")
		w.host.set(func() { w.host.hold = 24 * time.Hour })
		w.settle(time.Minute)
		w.finish(success)
		w.settle(LogPatience)
		w.same("results", 1, len(w.peer.Seen().Results))
	})
}

func TestLogRefused(t *testing.T) {
	for _, code := range []domain.Code{domain.CodeInternalError, domain.CodeResourceConflict} {
		inBubble(t, func(w *world) { w.peer.LogFails = &domain.Error{Code: code, Message: "disk full"} }, func(w *world) {
			w.write(numbered(100_000)) // it must not wait for anybody
			w.finish(success)
			w.same("results", 1, len(w.peer.Seen().Results))
			w.same("told", 1, w.log.count("the host refuses the log"))
			w.same("bodies", 1, len(w.host.times("log")))
			if message := w.peer.Seen().Results[0].Report.Message; !strings.Contains(message, "disk full") {
				w.Errorf("the report says %q", message)
			}
			w.same("a success", false, w.peer.Seen().Results[0].Success)
		})
	}
}

func TestLogOfABusyHost(t *testing.T) {
	busy := &domain.Error{Code: domain.CodeTooManyRequests}
	inBubble(t, func(w *world) { w.host.refuse["log"] = busy }, func(w *world) {
		w.write("text")
		w.settle(time.Second)
		w.host.set(func() { delete(w.host.refuse, "log") })
		w.settle(5 * time.Second)
		w.finish(success)
		w.same("the log", "text", w.peer.Seen().Log)
		w.same("results", []domain.Result{{Success: true, Report: &success}}, w.peer.Seen().Results)
	})
}

// A log without a byte that breaks has lost nothing.
func TestEmptyLogThatBreaks(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.host.goAway(errAway)
		w.host.goAway(nil)
		w.finish(success)
		w.settle(10 * time.Second)
		w.same("results", []domain.Result{{Success: true, Report: &success}}, w.peer.Seen().Results)
	})
}

func TestNotesBeginALine(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.guest.task.note("one")
		synctest.Wait()
		w.write("half a line")
		w.guest.task.note("two")
		synctest.Wait()
		w.write("a line\n")
		w.guest.task.note("three\x1b[31m\n")
		w.finish(success)
		w.guest.task.note("too late")
		w.same("the log", "guest-tools: one\nhalf a line\nguest-tools: two\na line\nguest-tools: three [31m \n", w.peer.Seen().Log)
	})
}

// A child that writes on after the command's end is cut off sometime: whoever reads the log must see where.
// The task itself has ended as it has.
func TestOutputThatIsCut(t *testing.T) {
	for text, want := range map[string]string{"whole\n": "whole\n", "half": "half\n", "": ""} {
		inBubble(t, asItIs, func(w *world) {
			if text != "" {
				w.write(text)
			}
			w.process.exit(success)
			w.process.w.CloseWithError(ports.ErrOutputCut)
			w.settle(time.Second)
			w.same("the log", want+line(ports.ErrOutputCut.Error()), w.peer.Seen().Log)
			report := success
			report.Message = ports.ErrOutputCut.Error()
			w.same("results", []domain.Result{{Success: true, Report: &report}}, w.peer.Seen().Results)
		})
	}
}

// Output in small pieces is gathered, but never for long enough to be seen.
func TestSmallOutputIsGathered(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		var text strings.Builder
		for i := range 1000 {
			piece := fmt.Sprintf("piece %d\n", i)
			text.WriteString(piece)
			io.WriteString(w.process.w, piece)
			time.Sleep(10 * time.Microsecond)
		}
		time.Sleep(2 * logGather)
		synctest.Wait()
		w.same("the log", text.String(), w.peer.Seen().Log)
		w.same("more than a tenth as many writes as pieces", false, w.host.writes > 100)
	})
}

// Output that comes in bits of any size, and is taken in others, is the same at the end.
func TestRing(t *testing.T) {
	for _, size := range []int{1, 7, 64, 1000} {
		r := newRing(size)
		random := rand.New(rand.NewPCG(1, uint64(size)))
		var in, out bytes.Buffer
		for i := range 5000 {
			if room := r.roomNow(); i%3 < 2 && len(room) > 0 {
				n := random.IntN(len(room) + 1)
				for j := range n {
					room[j] = byte(random.Int())
				}
				in.Write(room[:n])
				// What is taken while room is being filled must not change where it goes.
				held := r.held()
				k := random.IntN(len(held) + 1)
				out.Write(held[:k])
				r.take(k)
				r.put(n)
			}
			held := r.held()
			n := random.IntN(len(held) + 1)
			out.Write(held[:n])
			r.take(n)
		}
		for held := r.held(); len(held) > 0; held = r.held() {
			out.Write(held)
			r.take(len(held))
		}
		if !bytes.Equal(in.Bytes(), out.Bytes()) {
			t.Errorf("a ring of %d bytes: %d bytes in, %d out, not the same", size, in.Len(), out.Len())
		}
	}
}
