package host_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// tokenMachine is a machine that hands tokens over: it keeps them.
type tokenMachine struct {
	*machine
	options ports.BootOptions
}

func (m *tokenMachine) HandsTokenOver() {}

func (m *tokenMachine) Boot(ctx context.Context, options ports.BootOptions) (ports.Guest, error) {
	m.options = options
	return m.machine.Boot(ctx, options)
}

// lines is a log that counts.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// withToken starts a task whose guest is a function of the test that gets its token.
func withToken(t *testing.T, mode domain.TokenMode, log *lines, guest func(ctx context.Context, api ports.GuestAPI, token string) error) (*host.Task, *tokenMachine) {
	t.Helper()
	m := &tokenMachine{machine: new(machine)}
	m.guest = func(ctx context.Context, api ports.GuestAPI) error {
		err := guest(ctx, api, m.options.Token)
		<-ctx.Done()
		return err
	}
	j := job(m.machine)
	j.Machine, j.Token, j.BootTimeout = m, mode, time.Minute
	j.Logger = slog.New(slog.NewTextHandler(log, nil))
	task, err := host.Start(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { task.Close(context.Background()) })
	return task, m
}

func TestEachGuestHasATokenOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(map[string]bool)
		for range 3 {
			log := new(lines)
			_, m := withToken(t, "", log, func(context.Context, ports.GuestAPI, string) error { return nil })
			token := m.options.Token
			if secret, err := base64.RawURLEncoding.DecodeString(token); err != nil || len(secret) != 32 || seen[token] {
				t.Errorf("the token is %q", token)
			}
			seen[token] = true
			for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
				if text := fmt.Sprintf(verb, m.options); strings.Contains(text, token) {
					t.Errorf("the options print as %s", text)
				}
			}
			if strings.Contains(log.String(), token) {
				t.Errorf("the log shows it: %s", log)
			}
		}
		_, m := withToken(t, domain.TokenOff, new(lines), func(context.Context, ports.GuestAPI, string) error { return nil })
		if m.options.Token != "" {
			t.Error("a machine gets a token that nobody demands")
		}
	})
}

// What is refused is told, but seldom, and is no sign of life: the guest's task isn't its tools.
func TestRefusedRequestsAreNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(lines)
		task, m := withToken(t, domain.TokenRequired, log, func(_ context.Context, api ports.GuestAPI, token string) error {
			for i := range 1000 {
				shown := ""
				if i%2 == 0 {
					shown = token[:42] + "!"
				}
				if i%3 == 0 {
					shown += strings.Repeat("x", i)
				}
				if err := api.Admit(shown); !errors.Is(err, domain.ErrUnauthorized) || err.Error() != domain.ErrUnauthorized.Error() {
					return fmt.Errorf("%q: %w", shown, err)
				}
			}
			return nil
		})
		outcome, err := task.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if outcome.Status != domain.StatusMachineDied || !strings.Contains(outcome.Err.Error(), "1000 requests came without the token") {
			t.Errorf("the outcome is %v", outcome)
		}
		select {
		case <-task.Service().Called():
			t.Error("the guest counts as there")
		default:
		}
		if told := strings.Count(log.String(), "does not show the token"); told == 0 || told > 20 {
			t.Errorf("it is told %d times", told)
		}
		if strings.Contains(log.String(), m.options.Token[:42]) {
			t.Errorf("the log shows what was tried:\n%s", log)
		}
	})
}

func TestWhetherATokenIsDemandedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, knows := range []bool{true, false} {
			log := new(lines)
			task, _ := withToken(t, "", log, func(ctx context.Context, api ports.GuestAPI, token string) error {
				for range 3 {
					if knows {
						if err := api.Admit(token); err != nil {
							return err
						}
					}
					if _, err := api.Execute(ctx); err != nil {
						return err
					}
				}
				return nil
			})
			synctest.Wait()
			if err := task.Service().Admit(""); (err == nil) == knows {
				t.Errorf("the tools know it: %t, and the task gets %v", knows, err)
			}
			proved := strings.Count(log.String(), "have shown their token")
			unproved := strings.Count(log.String(), "show no token")
			if knows && (proved != 1 || unproved != 0) || !knows && (proved != 0 || unproved != 1) {
				t.Errorf("the tools know it: %t, and the log says:\n%s", knows, log)
			}
		}
	})
}

// A line that root posts to the log shows the token, since root finds it. Where the tools are another user's, who
// can't, they must go on being served: the host would have heard its guest for the last time.
func TestALineInTheLogDoesNotLockTheToolsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, polled := new(lines), make(chan domain.Action, 1)
		task, m := withToken(t, "", log, func(ctx context.Context, api ports.GuestAPI, _ string) error {
			return api.Poll(ctx, func(a domain.Action) error { polled <- a; return nil })
		})
		s := task.Service()
		synctest.Wait()
		if err := errors.Join(s.AdmitLog(m.options.Token), s.Admit(""), s.AdmitHello(""), s.AdmitLog("")); err != nil {
			t.Errorf("the tools, which show none: %v", err)
		}
		synctest.Wait()
		if len(polled) > 0 || strings.Contains(log.String(), "have shown their token") {
			t.Errorf("the tools' poll was ended, or it is told that they have shown it:\n%s", log)
		}
		if _, err := s.Execute(t.Context()); err != nil || !strings.Contains(log.String(), "show no token") {
			t.Errorf("that the task can play the tools isn't told: %v\n%s", err, log)
		}
	})
}

// What has polled before the tools were there must not get what they are asked for.
func TestPollsFromBeforeTheTokenGetNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early, late := make(chan domain.Action, 1), make(chan domain.Action, 1)
		poll := func(ctx context.Context, api ports.GuestAPI, got chan<- domain.Action) {
			_ = api.Poll(ctx, func(a domain.Action) error { got <- a; return nil })
		}
		task, _ := withToken(t, "", new(lines), func(ctx context.Context, api ports.GuestAPI, token string) error {
			go poll(ctx, api, early)
			time.Sleep(time.Second) // and now it is parked
			if err := api.Admit(token); err != nil {
				return err
			}
			go poll(ctx, api, late)
			return nil
		})
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go task.Service().Kill(ctx)
		select {
		case action := <-early:
			if action.Kind() != domain.KindNone {
				t.Errorf("the early poll got %v", action)
			}
		default:
			t.Error("the early poll hangs still, and may take the next action")
		}
		if action := <-late; action.Kind() != domain.KindKillProcess {
			t.Errorf("the tools' poll got %v", action)
		}
	})
}

func TestHandingATokenOut(t *testing.T) {
	log := new(lines)
	s := newService(t, func(c *host.Config) {
		c.Token, c.Logger = domain.TokenRequired, slog.New(slog.NewTextHandler(log, nil))
	})
	broken := errors.New("the connection broke")
	if err := s.HandToken(t.Context(), "", func(domain.Token) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("what can't be written: %v", err)
	}
	var token domain.Token
	err := s.HandToken(t.Context(), "", func(given domain.Token) error {
		token = given
		if err := s.HandToken(t.Context(), "", nil); !errors.Is(err, domain.ErrTooMany) {
			t.Errorf("a second one amid it: %v", err)
		}
		return nil
	})
	if err != nil || token.IsZero() {
		t.Fatalf("the token: %v, %v", token, err)
	}
	for range 3 {
		if err := s.HandToken(t.Context(), "", nil); !errors.Is(err, domain.ErrTokenTaken) {
			t.Errorf("a second one: %v", err)
		}
	}
	if told := strings.Count(log.String(), "asked for again"); told != 3 || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("it is told %d times:\n%s", told, log)
	}
	if strings.Contains(log.String(), token.Reveal()) {
		t.Errorf("the log shows it:\n%s", log)
	}
	if err := errors.Join(s.Admit(token.Reveal()), s.AdmitHello(token.Reveal())); err != nil {
		t.Errorf("the right token: %v", err)
	}
	if err := s.Admit(""); !errors.Is(err, domain.ErrUnauthorized) {
		t.Errorf("no token: %v", err)
	}
}

// Of many who ask at once, one has it.
func TestOneOfManyHasTheToken(t *testing.T) {
	s := newService(t, func(c *host.Config) { c.Token = domain.TokenRequired })
	var had atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			err := s.HandToken(t.Context(), "", func(domain.Token) error { return nil })
			switch {
			case err == nil:
				had.Add(1)
			case !errors.Is(err, domain.ErrTokenTaken) && !errors.Is(err, domain.ErrTooMany):
				t.Errorf("it got %v", err)
			}
		})
	}
	all.Wait()
	if had.Load() != 1 {
		t.Errorf("%d have it", had.Load())
	}
}

func TestNoTokenWithoutAWay(t *testing.T) {
	for _, mode := range []domain.TokenMode{"", domain.TokenAuto, domain.TokenOff} {
		s := newService(t, func(c *host.Config) { c.Token = mode })
		if err := s.HandToken(t.Context(), "", nil); !errors.Is(err, domain.ErrNoToken) {
			t.Errorf("%q hands one out: %v", mode, err)
		}
		if err := errors.Join(s.Admit(""), s.Admit("x"), s.AdmitHello("x")); err != nil {
			t.Errorf("%q demands one: %v", mode, err)
		}
		features, err := s.Hello(t.Context(), domain.Hello{BootID: "1", Features: domain.Features{domain.FeatureToken}})
		if err != nil || features.Has(domain.FeatureToken) || s.Features().Has(domain.FeatureToken) {
			t.Errorf("%q offers %v, %v", mode, features, err)
		}
	}
	if _, err := host.New(host.Config{IDs: &counter{}, Token: "on"}); !errors.Is(err, host.ErrInvalidConfig) || !errors.Is(err, domain.ErrInvalidTokenMode) {
		t.Errorf("a mode that there isn't: %v", err)
	}
}
