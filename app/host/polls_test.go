package host_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

func TestAPollHangsFor30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		start := time.Now()
		if action := take(t, s); action.Kind() != domain.KindNone {
			t.Errorf("handed %s", action)
		}
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("the poll hung for %s", took)
		}
	})
}

// Fault 1: a poll whose connection has died still takes the next action.
func TestAnActionOfADeadPollGoesToTheNext(t *testing.T) {
	ends := map[string]func(s *host.Service, ctx context.Context, cancel context.CancelFunc) error{
		"dead before the action": func(s *host.Service, ctx context.Context, cancel context.CancelFunc) error {
			cancel()
			return s.Poll(ctx, func(domain.Action) error { return errors.New("must not be delivered") })
		},
		"dead while it is written": func(s *host.Service, ctx context.Context, cancel context.CancelFunc) error {
			return s.Poll(ctx, func(domain.Action) error { return errors.New("connection reset by peer") })
		},
	}
	for name, poll := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, nil)
				got := fetch(t.Context(), s, &memory{})
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if err := poll(s, ctx, cancel); err == nil {
					t.Error("the dead poll has no error")
				}
				start := time.Now()
				action := take(t, s)
				if action.Kind() != domain.KindGetArtifact || time.Since(start) > 0 {
					t.Errorf("the next poll got %s after %s", action, time.Since(start))
				}
				if err := s.Artifact(t.Context(), action.ID(), ports.ArtifactReply{Body: text("content")}); err != nil {
					t.Error(err)
				}
				if f := <-got; f.err != nil {
					t.Error(f.err)
				}
			})
		})
	}
}

// What a guest had taken when it went down was asked of the next boot only once its reply was late.
func TestARebootedGuestGetsAtOnceWhatItHadTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		hello := func(boot string) {
			t.Helper()
			if _, err := s.Hello(t.Context(), domain.Hello{BootID: boot}); err != nil {
				t.Fatal(err)
			}
		}
		hello("1")
		first, second := fetch(t.Context(), s, &memory{}), fetch(t.Context(), s, &memory{})
		synctest.Wait()
		answered, taken := take(t, s), take(t, s)
		if err := s.Artifact(t.Context(), answered.ID(), ports.ArtifactReply{Body: text("of the boot before")}); err != nil {
			t.Fatal(err)
		}
		// The machine that was reset has told nobody, so that its poll seems to live.
		dead := make(chan domain.Action, 1)
		go s.Poll(t.Context(), func(a domain.Action) error { dead <- a; return nil })
		synctest.Wait()
		hello("1") // the same boot, whose connection broke: it knows what it has
		synctest.Wait()
		if len(dead) > 0 {
			t.Errorf("a hello of the same boot has its poll get %s", <-dead)
		}
		begun := time.Now()
		hello("2")
		again := take(t, s)
		if again.ID() != taken.ID() || time.Since(begun) > 0 {
			t.Errorf("the next boot gets %s after %s, the boot before had %s", again, time.Since(begun), taken)
		}
		if action := <-dead; action.Kind() != domain.KindNone {
			t.Errorf("a poll of the boot before gets %s", action)
		}
		if err := s.Artifact(t.Context(), again.ID(), ports.ArtifactReply{Body: text("content")}); err != nil {
			t.Error(err)
		}
		if err := s.Artifact(t.Context(), taken.ID(), ports.ArtifactReply{Body: text("content")}); !errors.Is(err, domain.ErrUnknownAction) {
			t.Errorf("the id is good twice: %v", err)
		}
		for _, got := range []<-chan fetched{first, second} {
			if f := <-got; f.err != nil {
				t.Error(f.err)
			}
		}
	})
}

// A guest that says hello after hello, each of another boot, must not have the same thing asked without end.
func TestARebootGivesAnActionBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		got := fetch(t.Context(), s, &memory{})
		synctest.Wait()
		id := take(t, s).ID()
		handed := 1
		for boot := range 10 {
			if _, err := s.Hello(t.Context(), domain.Hello{BootID: fmt.Sprint(boot)}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_ = s.Poll(ctx, func(a domain.Action) error {
				if handed++; a.ID() != id {
					t.Errorf("boot %d is handed %s", boot, a)
				}
				return nil
			})
			cancel()
		}
		if handed != 2 {
			t.Errorf("it was handed over %d times", handed)
		}
		if err := s.Artifact(t.Context(), id, ports.ArtifactReply{Body: text("content")}); err != nil {
			t.Error(err)
		}
		if f := <-got; f.err != nil {
			t.Error(f.err)
		}
	})
}

// Of many parked polls, dead and alive, an action finds a live one.
func TestTheNewestLivePollGetsTheAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		got := make(chan string, 3)
		park := func(name string) context.CancelFunc {
			ctx, cancel := context.WithCancel(t.Context())
			go s.Poll(ctx, func(a domain.Action) error {
				got <- fmt.Sprint(name, " ", a.Kind())
				return nil
			})
			synctest.Wait()
			return cancel
		}
		park("old")
		kill := park("middle")
		killNewest := park("newest")
		killNewest()
		synctest.Wait()
		f := fetch(t.Context(), s, &memory{})
		if first := <-got; first != "middle get-artifact" {
			t.Errorf("handed to: %s", first)
		}
		kill()
		s.Close()
		<-f
		if last := <-got; last != "old none" {
			t.Errorf("the old poll: %s", last)
		}
	})
}

func TestTooManyPollsEndTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *host.Config) { c.Limits.Polls = 2 })
		var answered atomic.Int64
		for range 10 {
			go s.Poll(t.Context(), func(domain.Action) error { answered.Add(1); return nil })
			synctest.Wait()
		}
		if n := answered.Load(); n != 8 {
			t.Errorf("%d of 10 polls were answered, want 8", n)
		}
	})
}

func TestStopPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		start := time.Now()
		parked := make(chan domain.Action, 1)
		go s.Poll(t.Context(), func(a domain.Action) error { parked <- a; return nil })
		synctest.Wait()
		s.StopPolls()
		if a := <-parked; a.Kind() != domain.KindNone || time.Since(start) > 0 {
			t.Errorf("the parked poll got %s after %s", a, time.Since(start))
		}
		if a := take(t, s); a.Kind() != domain.KindNone || time.Since(start) != time.Second {
			t.Errorf("the next poll got %s after %s", a, time.Since(start))
		}
		f := <-fetch(t.Context(), s, &memory{})
		wantError(t, f.err, []error{domain.ErrNonFatalInternalError, domain.ErrNoPoll}, "stopped")
		if took := time.Since(start); took != time.Second {
			t.Errorf("an action after the stop failed after %s", took)
		}
	})
}

func TestStopPollsFailsWhatIsOnOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		got := fetch(t.Context(), s, &memory{})
		synctest.Wait()
		start := time.Now()
		s.StopPolls()
		f := <-got
		wantError(t, f.err, []error{domain.ErrNoPoll})
		if took := time.Since(start); took > 0 {
			t.Errorf("it failed after %s", took)
		}
	})
}

// Fault 13: a guest that went silent is never noticed.
func TestASilentGuestIsLost(t *testing.T) {
	isLost := func(s *host.Service) bool {
		synctest.Wait()
		select {
		case <-s.Lost():
			return true
		default:
			return false
		}
	}
	t.Run("after its poll", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, nil)
			take(t, s)
			time.Sleep(45*time.Second - time.Nanosecond)
			if isLost(s) {
				t.Error("lost too early")
			}
			time.Sleep(time.Nanosecond)
			if !isLost(s) {
				t.Error("not lost")
			}
		})
	})
	t.Run("not while a request is open", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, nil)
			take(t, s)
			log := newBody()
			ended := make(chan error)
			go func() { ended <- s.Log(t.Context(), log) }()
			time.Sleep(time.Hour)
			if isLost(s) {
				t.Error("lost with its log open")
			}
			log.end <- errors.New("connection reset")
			<-ended
			time.Sleep(45 * time.Second)
			if !isLost(s) {
				t.Error("not lost")
			}
		})
	})
	t.Run("not if it never polled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, nil)
			if _, err := s.Execute(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if isLost(s) {
				t.Error("lost")
			}
		})
	})
	t.Run("not if it polls again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, nil)
			for range 10 {
				take(t, s)
				time.Sleep(44 * time.Second)
			}
			if isLost(s) {
				t.Error("lost")
			}
		})
	})
}

// Fault 14: one lock held during an action that takes 30 s blocks every other.
func TestNothingWaitsForAnActionThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		hanging := fetch(t.Context(), s, &memory{})
		take(t, s) // and never answers
		start := time.Now()
		killed := make(chan error, 1)
		go func() { killed <- s.Kill(t.Context()) }()
		if err := s.Killed(t.Context(), take(t, s).ID()); err != nil {
			t.Error(err)
		}
		if err := <-killed; err != nil {
			t.Error(err)
		}
		if _, err := s.Execute(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("they took %s", took)
		}
		s.Close()
		<-hanging
	})
}

// An action that is given back has what is left of its offer, and no more.
func TestAnActionGivenBackTooLateFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *host.Config) { c.Limits.Tries = 1 })
		start := time.Now()
		got := fetch(t.Context(), s, &memory{})
		time.Sleep(29 * time.Second)
		s.Poll(t.Context(), func(domain.Action) error {
			time.Sleep(5 * time.Second) // a connection that takes its time to break
			return errors.New("connection reset by peer")
		})
		f := <-got
		wantError(t, f.err, []error{domain.ErrNonFatalInternalError, domain.ErrNoPoll})
		if took := time.Since(start); took != 34*time.Second {
			t.Errorf("it failed after %s", took)
		}
	})
}
