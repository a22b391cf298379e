package faults

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/domain"
)

// scene is a world with a guest in it, for a test.
type scene struct {
	*testing.T
	*world
	member *member
	finish chan struct{} // closed: the task says the rest, and ends
	left   bool
}

// newScene makes one, which is to be gone without a trace when the test ends.
func newScene(t *testing.T, set setting) *scene {
	t.Helper()
	w, err := newWorld(set)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, world: w, finish: make(chan struct{})}
	s.member, err = w.join(guestFolder(t), "boot", false, Programs{Task: task(s.finish, 0), Shell: chatter})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.leave()
		if set.storage == "" {
			os.RemoveAll(w.storage)
		}
	})
	return s
}

// leakless sees at the test's end that no goroutine is left. It comes before all else.
func leakless(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := goleak.Find(before); err != nil {
			t.Errorf("I11: %v", err)
		}
	})
}

// leave ends the guest, the host and the way between them, once.
func (s *scene) leave() {
	s.Helper()
	if s.left {
		return
	}
	s.left = true
	for _, err := range append(s.member.leave(), s.close()...) {
		s.Error(err)
	}
}

// within calls f with a context, and holds it to that (I9).
func (s *scene) within(d time.Duration, what string, f func(ctx context.Context) error) error {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), d)
	defer cancel()
	begun := time.Now()
	err := f(ctx)
	if late := time.Since(begun) - d; late > s.lag.Allowed(time.Second) {
		s.Errorf("I9: %s returned %s after its context", what, late)
	}
	return err
}

// outcomeIn waits for the outcome so long.
func (s *scene) outcomeIn(d time.Duration) (outcome domain.Outcome, err error) {
	s.Helper()
	err = s.within(d, "Outcome", func(ctx context.Context) (err error) {
		outcome, err = s.service.Outcome(ctx)
		return err
	})
	return outcome, err
}

// works sees that the guest serves its host.
func (s *scene) works() {
	s.Helper()
	err := s.within(callTime, "Artifact", func(ctx context.Context) error {
		got := fetch(ctx, s.service, "file")
		if got.err == nil && string(got.content) != artifact {
			s.Errorf("I12: an artifact of %d bytes, the file has %d", len(got.content), len(artifact))
		}
		return got.err
	})
	if err != nil {
		s.Errorf("a file: %v", err)
	}
}

// oddSink is a sink that fails.
type oddSink struct {
	*sink
	write func(p []byte) (int, error)
}

func (o oddSink) Write(p []byte) (int, error) { return o.write(p) }

// A slow sink holds the guest back, and nothing is lost.
func TestSinkThatIsSlow(t *testing.T) {
	leakless(t)
	slow := oddSink{sink: newSink()}
	slow.write = func(p []byte) (int, error) {
		<-time.After(10 * time.Millisecond)
		return slow.sink.Write(p)
	}
	s := newScene(t, setting{limits: limits, log: slow})
	s.works()
	close(s.finish)
	outcome, err := s.outcomeIn(callTime)
	if err != nil || !outcome.Succeeded() || slow.String() != logHead+logTail {
		t.Errorf("%s, %v, %v, with %d bytes of log of %d", outcome.Status, outcome.Err, err, len(slow.String()), len(logHead+logTail))
	}
}

var errSinkFull = errors.New("no room in the sink")

// A sink that fails ends the log there: the guest's task runs to its end, and nobody calls it a success.
func TestSinkThatFails(t *testing.T) {
	leakless(t)
	for _, room := range []int{0, 1, 10_000, len(logHead), len(logHead+logTail) - 1} {
		failing := oddSink{sink: newSink()}
		failing.write = func(p []byte) (int, error) {
			if left := room - len(failing.String()); len(p) > left {
				n, _ := failing.sink.Write(p[:left])
				return n, errSinkFull
			}
			return failing.sink.Write(p)
		}
		s := newScene(t, setting{limits: limits, log: failing})
		s.works()
		close(s.finish)
		outcome, err := s.outcomeIn(callTime)
		if err != nil || outcome.Succeeded() || !errors.Is(outcome.Err, domain.ErrLogIncomplete) || !errors.Is(outcome.Err, errSinkFull) {
			t.Errorf("room for %d: %s, %v, %v", room, outcome.Status, outcome.Err, err)
		}
		if got := failing.String(); got != (logHead + logTail)[:room] || outcome.Log.Bytes != int64(room) {
			t.Errorf("room for %d: %d bytes are written, told are %d", room, len(got), outcome.Log.Bytes)
		}
		if <-s.told {
			t.Errorf("room for %d: the callback is told of a success", room)
		}
		s.works()
		s.leave()
	}
}

// A sink that blocks for ever holds the log's connection and nothing else: files come, the task is killed,
// callers return in time, another guest notices nothing, and Close gets over it.
func TestSinkThatBlocks(t *testing.T) {
	leakless(t)
	release := make(chan struct{})
	blocking := oddSink{sink: newSink()}
	blocking.write = func(p []byte) (int, error) {
		<-release
		return len(p), nil
	}
	other := newScene(t, setting{limits: limits})
	s := newScene(t, setting{limits: limits, log: blocking})
	s.works()
	if _, err := s.outcomeIn(300 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the outcome: %v", err)
	}
	if err := s.within(callTime, "Kill", s.service.Kill); err != nil {
		t.Errorf("Kill: %v", err)
	}
	other.works()
	close(other.finish)
	if outcome, err := other.outcomeIn(callTime); err != nil || !outcome.Succeeded() || other.log.String() != logHead+logTail {
		t.Errorf("I10: the other guest's task: %s, %v, %v", outcome.Status, outcome.Err, err)
	}
	// The guest waits for the host's word on its log as long as the host answers at all, so the result isn't
	// told; whoever waits for that gives up.
	if _, err := s.outcomeIn(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the outcome: %v", err)
	}
	begun := time.Now()
	s.service.Close()
	if took := time.Since(begun); took > s.lag.Allowed(2*time.Second) {
		t.Errorf("I9: Close took %s", took)
	}
	for _, err := range s.member.leave() {
		t.Error(err)
	}
	close(release)
	for _, err := range s.close() {
		t.Error(err)
	}
	s.left = true
}

// A sink that panics is one that fails: net/http would swallow it, and the log would pass for one that is
// still open.
func TestSinkThatPanics(t *testing.T) {
	leakless(t)
	panicking := oddSink{sink: newSink()}
	panicking.write = func(p []byte) (int, error) {
		if strings.Contains(string(p), "000001") {
			panic("the sink is broken")
		}
		return panicking.sink.Write(p)
	}
	s := newScene(t, setting{limits: limits, log: panicking})
	s.works()
	close(s.finish)
	outcome, err := s.outcomeIn(callTime)
	if err != nil || outcome.Succeeded() || !errors.Is(outcome.Err, domain.ErrLogIncomplete) {
		t.Errorf("%s, %v, %v", outcome.Status, outcome.Err, err)
	}
	if err == nil && !strings.Contains(outcome.Err.Error(), "the sink is broken") {
		t.Errorf("the error doesn't tell of the panic: %v", outcome.Err)
	}
	s.works()
}
