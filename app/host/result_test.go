package host_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
)

// told collects what the callback is told.
type told struct {
	mu       sync.Mutex
	outcomes []domain.Outcome
}

func (o *told) tell(outcome domain.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outcomes = append(o.outcomes, outcome)
}

func (o *told) all() []domain.Outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.outcomes
}

func TestTheResultCountsOnce(t *testing.T) {
	for _, success := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var callback told
			s := newService(t, func(c *host.Config) { c.Resolved = callback.tell })
			for range 3 {
				if err := s.Resolve(t.Context(), domain.Result{Success: success}); err != nil {
					t.Error(err)
				}
				if err := s.Resolve(t.Context(), domain.Result{Success: !success}); !errors.Is(err, domain.ErrConflict) {
					t.Errorf("the other result: %v", err)
				}
			}
			synctest.Wait()
			if got := callback.all(); len(got) != 1 || got[0].Succeeded() != success {
				t.Errorf("told %v", got)
			}
		})
	}
}

// The callback isn't run inside the request: what it does is not the guest's business.
func TestACallbackThatBlocksHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newService(t, func(c *host.Config) { c.Resolved = func(domain.Outcome) { <-release } })
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		s.Close()
		if took := time.Since(start); took > time.Second {
			t.Errorf("Close took %s", took)
		}
		close(release)
	})
}

// Fault 7: after the task is resolved, a rebooted guest is handed the command again.
func TestExecuteIsRefusedOnceResolved(t *testing.T) {
	s := newService(t, nil)
	for range 3 {
		if execute, err := s.Execute(t.Context()); err != nil || execute.Env["A"] != "1" {
			t.Errorf("Execute: %v, %v", execute, err)
		}
	}
	if err := s.Resolve(t.Context(), domain.Result{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Execute(t.Context()); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("Execute after the result: %v", err)
	}
}

func TestTheLogIsWrittenAsItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink bytes.Buffer
		s := newService(t, func(c *host.Config) { c.Log = &sink })
		log := newBody()
		ended := make(chan error, 1)
		go func() { ended <- s.Log(t.Context(), log) }()
		log.chunks <- []byte("first")
		synctest.Wait()
		if sink.String() != "first" {
			t.Errorf("the sink has %q", sink.String())
		}
		large := bytes.Repeat([]byte("x"), 3<<20)
		log.chunks <- large
		log.end <- io.EOF
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Error(err)
		}
		outcome, err := s.Outcome(t.Context())
		if err != nil || !outcome.Succeeded() || !outcome.Log.Complete() || outcome.Log.Bytes != int64(5+len(large)) {
			t.Errorf("outcome %+v, %v", outcome, err)
		}
		if sink.String() != "first"+string(large) {
			t.Error("the sink has other bytes than the guest sent")
		}
	})
}

// Fault 4: the log connection breaks, and the task is still reported a success with half its log.
func TestABrokenLogIsNoPlainSuccess(t *testing.T) {
	for name, end := range map[string]func(s *host.Service, log *body){
		"broken before the result": func(s *host.Service, log *body) {
			log.end <- io.ErrUnexpectedEOF
			synctest.Wait()
			s.Resolve(context.Background(), domain.Result{Success: true})
		},
		"broken after the result": func(s *host.Service, log *body) {
			s.Resolve(context.Background(), domain.Result{Success: true})
			synctest.Wait()
			log.end <- io.ErrUnexpectedEOF
		},
		"never ended": func(s *host.Service, log *body) {
			s.Resolve(context.Background(), domain.Result{Success: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var callback told
				s := newService(t, func(c *host.Config) { c.Resolved = callback.tell })
				log := newBody()
				ended := make(chan error, 1)
				go func() { ended <- s.Log(t.Context(), log) }()
				log.chunks <- []byte("half")
				synctest.Wait()
				start := time.Now()
				end(s, log)
				outcome, err := s.Outcome(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if outcome.Succeeded() || outcome.Log.Complete() || outcome.Log.Bytes != 4 {
					t.Errorf("outcome %+v", outcome)
				}
				wantError(t, outcome.Err, []error{domain.ErrLogIncomplete})
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("it was told after %s", took)
				}
				synctest.Wait()
				if got := callback.all(); len(got) != 1 || got[0].Succeeded() {
					t.Errorf("the callback was told %+v", got)
				}
				select {
				case log.end <- io.ErrUnexpectedEOF:
				default:
				}
				<-ended
			})
		})
	}
}

// A log body that ends late, but ends, is waited for.
func TestTheResultWaitsForOpenLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		log := newBody()
		ended := make(chan error, 1)
		go func() { ended <- s.Log(t.Context(), log) }()
		synctest.Wait()
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		select {
		case <-s.Settled():
			t.Error("settled with a log open")
		default:
		}
		log.chunks <- []byte("late")
		log.end <- io.EOF
		if err := <-ended; err != nil {
			t.Error(err)
		}
		outcome, err := s.Outcome(t.Context())
		if err != nil || !outcome.Succeeded() || outcome.Log.Bytes != 4 {
			t.Errorf("outcome %+v, %v", outcome, err)
		}
		if err := s.Log(t.Context(), text("too late")); !errors.Is(err, domain.ErrConflict) {
			t.Errorf("a log after the outcome: %v", err)
		}
	})
}

func TestTheLimitOnLogBytes(t *testing.T) {
	for size, want := range map[int]struct{ written, cut int64 }{9: {9, 0}, 10: {10, 0}, 11: {10, 1}, 3 << 20: {10, 3<<20 - 10}} {
		var sink bytes.Buffer
		s := newService(t, func(c *host.Config) { c.Log, c.Limits.LogBytes = &sink, 10 })
		content := strings.Repeat("x", size)
		if err := s.Log(t.Context(), text(content)); err != nil {
			t.Error(err)
		}
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Error(err)
		}
		outcome, err := s.Outcome(t.Context())
		if err != nil || outcome.Log.Bytes != want.written || outcome.Log.Cut != want.cut || !outcome.Succeeded() {
			t.Errorf("%d bytes: %+v, %v", size, outcome, err)
		}
		if int64(sink.Len()) != want.written || outcome.Log.Complete() != (want.cut == 0) {
			t.Errorf("%d bytes: %d in the sink, complete %v", size, sink.Len(), outcome.Log.Complete())
		}
	}
}

// failing is a sink that takes so many bytes, and then fails.
type failing struct {
	room int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	n := min(len(p), f.room)
	f.room -= n
	if n < len(p) {
		return n, f.err
	}
	return n, nil
}

// The guest's task must not hang on the host's full disk, and its log is not called whole.
func TestASinkThatFailsIsTold(t *testing.T) {
	for _, sinkErr := range []error{errors.New("no space left on device"), nil} {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, func(c *host.Config) { c.Log = &failing{room: 6, err: sinkErr} })
			log := newBody()
			for range 50 {
				log.chunks <- []byte("1234")
			}
			log.end <- io.EOF
			if err := s.Log(t.Context(), log); !errors.Is(err, domain.ErrLog) {
				t.Errorf("Log: %v", err)
			}
			if err := s.Log(t.Context(), text("more")); !errors.Is(err, domain.ErrLog) {
				t.Errorf("another Log: %v", err)
			}
			if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
				t.Error(err)
			}
			outcome, err := s.Outcome(t.Context())
			if err != nil || outcome.Succeeded() || outcome.Log.Bytes != 6 {
				t.Errorf("outcome %+v, %v", outcome, err)
			}
			wantError(t, outcome.Err, []error{domain.ErrLogIncomplete, domain.ErrLog})
		})
	}
}

// What has come is written, though the request that brought it ends together with its last bytes.
func TestTheLastBytesOfABrokenLogAreWritten(t *testing.T) {
	for range 20 { // a wrong choice between the two was made half the time
		synctest.Test(t, func(t *testing.T) {
			var sink bytes.Buffer
			s := newService(t, func(c *host.Config) { c.Log = &sink })
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			log := newBody()
			log.chunks <- []byte("the last bytes")
			log.end <- io.ErrUnexpectedEOF
			if err := s.Log(ctx, log); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Log: %v", err)
			}
			if got := sink.String(); got != "the last bytes" {
				t.Errorf("the sink has %q", got)
			}
		})
	}
}

// A sink that blocks holds the guest's log back, and nothing else: not even Close for long.
func TestASinkThatBlocksHoldsOnlyTheLogUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		s := newService(t, func(c *host.Config) { c.Log = writer })
		ended := make(chan error, 2)
		go func() { ended <- s.Log(t.Context(), text("one")) }()
		synctest.Wait()
		other, cancel := context.WithCancel(t.Context())
		go func() { ended <- s.Log(other, text("two")) }()
		synctest.Wait()
		cancel() // a second body, waiting for its turn, goes when its guest does
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the waiting log: %v", err)
		}
		start := time.Now()
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Error(err)
		}
		outcome, err := s.Outcome(t.Context())
		if err != nil || outcome.Succeeded() {
			t.Errorf("outcome %+v, %v", outcome, err)
		}
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("the outcome came after %s", took)
		}
		start = time.Now()
		s.Close()
		if took := time.Since(start); took > time.Second {
			t.Errorf("Close took %s", took)
		}
		reader.Close()
		<-ended
	})
}

// Several logs at once: each chunk is written whole.
func TestTooManyLogsAtOnceAreRefusedAndHarmNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *host.Config) { c.Limits.Logs = 2 })
		ended := make(chan error, 2)
		logs := []*body{newBody(), newBody()}
		for _, log := range logs {
			go func() { ended <- s.Log(t.Context(), log) }()
		}
		synctest.Wait()
		if err := s.Log(t.Context(), text("one more")); !errors.Is(err, domain.ErrTooMany) {
			t.Errorf("the third log: %v", err)
		}
		for _, log := range logs {
			log.end <- io.EOF
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := s.Log(t.Context(), text("now")); err != nil {
			t.Errorf("a log after the others: %v", err)
		}
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Error(err)
		}
		if outcome, err := s.Outcome(t.Context()); err != nil || !outcome.Succeeded() || outcome.Log.Bytes != 3 {
			t.Errorf("outcome %+v, %v", outcome, err)
		}
	})
}

// A host that was restarted with another task must not take the old one's success for its own.
func TestAResultOfAGuestThatNeverAskedWhatToRunIsNoSuccess(t *testing.T) {
	for _, asks := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var callback told
			s := newService(t, func(c *host.Config) { c.Resolved = callback.tell })
			if _, err := s.Hello(t.Context(), domain.Hello{BootID: "1"}); err != nil {
				t.Fatal(err)
			}
			if asks {
				if _, err := s.Execute(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
				t.Error(err)
			}
			outcome, err := s.Outcome(t.Context())
			if err != nil || outcome.Succeeded() != asks || errors.Is(outcome.Err, domain.ErrForeignResult) == asks {
				t.Errorf("asked what to run: %v: %+v, %v", asks, outcome, err)
			}
			s.Close()
			if got := callback.all(); len(got) != 1 || got[0].Succeeded() != asks {
				t.Errorf("asked what to run: %v: told %+v", asks, got)
			}
		})
	}
}

func TestLogsAreNotMixedWithinAChunk(t *testing.T) {
	var sink chunks
	s := newService(t, func(c *host.Config) { c.Log = &sink })
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			log := newBody()
			for range 50 {
				log.chunks <- bytes.Repeat([]byte{byte('a' + i)}, 100)
			}
			log.end <- io.EOF
			if err := s.Log(t.Context(), log); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if sink.mixed || sink.bytes != 8*50*100 {
		t.Errorf("%d bytes, mixed: %v", sink.bytes, sink.mixed)
	}
}

// chunks is a sink that must not be written to by two goroutines at once: it has no lock.
type chunks struct {
	bytes int
	mixed bool
}

func (c *chunks) Write(p []byte) (int, error) {
	c.bytes += len(p)
	c.mixed = c.mixed || len(bytes.Trim(p, string(p[0]))) > 0
	return len(p), nil
}

func TestHello(t *testing.T) {
	s := newService(t, nil)
	if got := s.Features(); len(got) != 0 {
		t.Errorf("before a hello: %v", got)
	}
	offered, err := s.Hello(t.Context(), domain.Hello{BootID: "1", Features: domain.Features{"result", "teleport"}})
	if err != nil || !offered.Has(domain.FeatureResult) || offered.Has("teleport") {
		t.Errorf("offered %v, %v", offered, err)
	}
	if got := s.Features(); !got.Has(domain.FeatureResult) || got.Has("teleport") {
		t.Errorf("in use: %v", got)
	}
	// After a reboot into an old image nothing is left of what the new one could do.
	if _, err := s.Hello(t.Context(), domain.Hello{BootID: "2"}); err != nil || len(s.Features()) != 0 {
		t.Errorf("in use: %v, %v", s.Features(), err)
	}
	if _, err := s.Hello(t.Context(), domain.Hello{}); !errors.Is(err, domain.ErrInvalidHello) {
		t.Errorf("an empty hello: %v", err)
	}
}

func TestAResultThatContradictsItselfIsRefused(t *testing.T) {
	s := newService(t, nil)
	err := s.Resolve(t.Context(), domain.Result{Success: true, Report: &domain.Report{ExitCode: 1, Reason: domain.ReasonExited}})
	wantError(t, err, []error{domain.ErrInvalidReport})
	if s.Resolved() {
		t.Error("the task is resolved by it")
	}
}

func TestNewNamesEveryMistake(t *testing.T) {
	_, err := host.New(host.Config{
		Execute: domain.Execute{Command: []string{"a\x00b"}, Env: map[string]string{"A=B": "1"}},
		Limits:  domain.Limits{Polls: -1, Hold: time.Hour},
	})
	wantError(t, err, []error{host.ErrInvalidConfig, domain.ErrInvalidExecute, domain.ErrInvalidLimits}, "argument 0", `"A=B"`, "Polls", "Hold")
}

func TestOutcomeEndsWithItsContextAndWithTheService(t *testing.T) {
	s := newService(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("had enough")
	cancel(cause)
	if _, err := s.Outcome(ctx); !errors.Is(err, cause) {
		t.Errorf("Outcome: %v", err)
	}
	s.Close()
	if _, err := s.Outcome(t.Context()); !errors.Is(err, domain.ErrSandboxTerminated) {
		t.Errorf("Outcome of a closed service: %v", err)
	}
}
