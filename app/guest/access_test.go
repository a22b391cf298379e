package guest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// refusedWorld runs a guest that its host refuses sooner or later; it must end by itself.
func refusedWorld(t *testing.T, prepare, test func(w *world), says string) {
	t.Helper()
	inBubble(t, prepare, func(w *world) {
		test(w)
		var err error
		select {
		case err = <-w.ended:
		case <-time.After(time.Minute):
			w.Error("the guest goes on, though its host has refused it for good")
			return
		}
		w.ended <- nil
		if !errors.Is(err, ErrNoAccess) || !strings.Contains(err.Error(), says) {
			w.Errorf("Run returned %v, which does not say %q", err, says)
		}
		if told, ok := errors.AsType[*domain.Error](err); ok {
			w.Errorf("the refusal %v might be taken for another request's", told)
		}
	})
}

func offersToken(w *world) {
	w.peer.Features = domain.Features{domain.FeatureResult, domain.FeatureToken}
	w.peer.Token = "a-token"
}

func TestTheTokenIsTakenAfterTheHello(t *testing.T) {
	inBubble(t, offersToken, func(w *world) {
		w.finish(success)
		w.same("what the host saw", []string{"hello", "token", "execute", "log", "logged", "resolve true"}, w.host.saw("poll"))
		w.same("the guest's features", domain.Features{domain.FeatureResult, domain.FeatureTar, domain.FeatureToken}, w.peer.Seen().Hellos[0].Features)
		w.same("the results", 1, len(w.peer.Seen().Results))
		if strings.Contains(w.log.String(), "a-token") {
			w.Errorf("the log shows it:\n%s", w.log)
		}
		// A connection that broke makes the hello due, not the token.
		w.host.goAway(errAway)
		w.settle(time.Minute)
		w.host.goAway(nil)
		w.settle(time.Minute)
		w.same("hellos and tokens", []int{2, 1}, []int{len(w.peer.Seen().Hellos), len(w.host.times("token"))})
	})
}

func TestAGuestThatHasATokenAsksForNone(t *testing.T) {
	inBubble(t, func(w *world) {
		offersToken(w)
		w.host.token = "a-token"
	}, func(w *world) {
		w.same("what the host saw", []string{"hello", "execute", "log"}, w.host.saw("poll"))
	})
}

// A host whose machine hands tokens over has none for guests that were given none.
func TestAHostThatHandsNoTokenOut(t *testing.T) {
	inBubble(t, func(w *world) {
		offersToken(w)
		w.peer.Token = ""
	}, func(w *world) {
		w.finish(success)
		w.same("what the host saw", []string{"hello", "token", "execute", "log", "logged", "resolve true"}, w.host.saw("poll"))
	})
}

// The way to the host may fail, and the host may be busy: that isn't for good.
func TestTheTokenIsAskedForUntilItIsThere(t *testing.T) {
	for name, err := range map[string]error{
		"the way fails":    errAway,
		"the host is busy": &domain.Error{Code: domain.CodeTooManyRequests},
		"the host failed":  &domain.Error{Code: domain.CodeInternalError},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				offersToken(w)
				w.host.refuse["token"] = err
			}, func(w *world) {
				w.settle(10 * time.Second)
				if asked := len(w.host.times("token")); asked < 3 || asked > 10 {
					w.Errorf("it was asked for %d times in 10 s", asked)
				}
				w.same("what else the host saw", []string(nil), w.host.saw("poll", "hello", "token"))
				w.host.set(func() { delete(w.host.refuse, "token") })
				w.settle(10 * time.Second)
				w.same("what else the host saw", []string{"execute", "log"}, w.host.saw("poll", "hello", "token"))
			})
		})
	}
}

func TestSomebodyElseHasTheToken(t *testing.T) {
	refusedWorld(t, func(w *world) {
		offersToken(w)
		w.host.refuse["token"] = &domain.Error{Code: domain.CodeResourceConflict, Message: "taken"}
	}, func(w *world) {
		w.same("what the host saw", []string{"hello", "token"}, w.host.saw())
	}, "was faster than these tools")
}

// 4xx is final: a guest that its host doesn't serve doesn't ask for ever, wherever the refusal comes.
func TestUnauthorizedIsFinal(t *testing.T) {
	unauthorized := &domain.Error{Code: domain.CodeUnauthorized, Message: "no"}
	for _, at := range []string{"hello", "token", "execute", "poll"} {
		for _, token := range []string{"", "stale"} {
			if token != "" && at == "token" {
				continue
			}
			t.Run(at+" with "+token, func(t *testing.T) {
				says := "demands the token"
				if token != "" {
					says = "refuses their token"
				}
				refusedWorld(t, func(w *world) {
					w.peer.Features = domain.Features{domain.FeatureResult, domain.FeatureToken}
					w.host.token, w.host.refuse[at] = token, unauthorized
				}, func(w *world) {
					w.settle(20 * time.Second)
					if asked := len(w.host.times(at)); asked != 1 {
						w.Errorf("it asked %d times", asked)
					}
				}, says)
			})
		}
	}
}

// A task whose host refuses it midway ends with all that it started, and is reported by nobody.
func TestUnauthorizedAmidATask(t *testing.T) {
	refusedWorld(t, asItIs, func(w *world) {
		w.write("hello\n")
		w.host.set(func() { w.host.refuse["poll"] = &domain.Error{Code: domain.CodeUnauthorized} })
		w.settle(2 * time.Minute)
		w.same("the results", 0, len(w.peer.Seen().Results))
		if !w.process.closed {
			w.Error("the task's processes go on")
		}
	}, "demands the token")
}

// The end that somebody asks for is none of the host's.
func TestAnOrderlyEndIsNoRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("a signal"))
		if err := fate(ctx); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}
