package domain_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

// lifeModel tells in plain words what becomes of a sandbox.
type lifeModel struct {
	begun, discarded, disposed bool
	wish                       domain.Status // what the guest was asked to end the task for
	status                     domain.Status
}

func (m *lifeModel) alive() bool { return m.begun && m.status == domain.StatusNone }

// tooLate is the error of a call to one that isn't alive.
func (m *lifeModel) tooLate() error {
	switch {
	case !m.begun:
		return domain.ErrSandboxBuilderDiscarded
	case m.status == domain.StatusAborted:
		return domain.ErrSandboxAborted
	}
	return domain.ErrSandboxTerminated
}

// lifeStep is one call or event, on the life and on the model. It returns what differs.
type lifeStep struct {
	name string
	do   func(l *domain.Life, m *lifeModel) string
}

func differs(what string, got, want any) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%s: %v, want %v; ", what, got, want)
}

func lifeSteps() []lifeStep {
	begin := func(set func(*lifeModel), call func(*domain.Life) error) func(*domain.Life, *lifeModel) string {
		return func(l *domain.Life, m *lifeModel) string {
			var want error = domain.ErrSandboxBuilderDiscarded
			if !m.begun && !m.discarded {
				want = nil
				set(m)
			}
			return differs("error", call(l), want)
		}
	}
	event := func(e domain.Event, status domain.Status) func(*domain.Life, *lifeModel) string {
		return func(l *domain.Life, m *lifeModel) string {
			wantEnded, wantAsk := false, false
			switch {
			case !m.alive(), e == domain.EventStarted:
			case e == domain.EventTimedOut:
				if m.wish == domain.StatusNone {
					m.wish, wantAsk = domain.StatusTimedOut, true
				}
			case m.wish != domain.StatusNone:
				m.status, wantEnded = m.wish, true
			case status != domain.StatusNone:
				m.status, wantEnded = status, true
			}
			ended, ask := l.Happen(e)
			return differs("ended", ended, wantEnded) + differs("ask", ask, wantAsk)
		}
	}
	return []lifeStep{
		{"start", begin(func(m *lifeModel) { m.begun = true }, (*domain.Life).Start)},
		{"discard", begin(func(m *lifeModel) { m.discarded = true }, (*domain.Life).Discard)},
		{"kill", func(l *domain.Life, m *lifeModel) string {
			var want error
			wantAsk := false
			switch {
			case !m.alive():
				want = m.tooLate()
			case m.wish == domain.StatusNone:
				m.wish, wantAsk = domain.StatusKilled, true
			}
			ask, err := l.Kill()
			return differs("error", err, want) + differs("ask", ask, wantAsk)
		}},
		{"abort", func(l *domain.Life, m *lifeModel) string {
			var want error
			if m.alive() {
				m.status = domain.StatusAborted
			} else {
				want = m.tooLate()
			}
			return differs("error", l.Abort(), want)
		}},
		{"dispose", func(l *domain.Life, m *lifeModel) string {
			wantFirst := m.status != domain.StatusNone && !m.disposed
			wantErr := m.status == domain.StatusNone
			m.disposed = m.disposed || wantFirst
			first, err := l.Dispose()
			return differs("first", first, wantFirst) + differs("error", err != nil, wantErr)
		}},
		{"started", event(domain.EventStarted, domain.StatusNone)},
		{"succeeded", event(domain.EventSucceeded, domain.StatusSuccess)},
		{"failed", event(domain.EventFailed, domain.StatusFailed)},
		{"timed out", event(domain.EventTimedOut, domain.StatusTimedOut)},
		{"guest lost", event(domain.EventGuestLost, domain.StatusGuestLost)},
		{"machine died", event(domain.EventMachineDied, domain.StatusMachineDied)},
		{"gave up", event(domain.EventGaveUp, domain.StatusNone)},
	}
}

// Every order of six calls and events, against the model: three million lives, none with two ends.
func TestLifeInEveryOrder(t *testing.T) {
	steps := lifeSteps()
	const length = 6
	order := make([]int, length)
	var walk func(depth int, l domain.Life, m lifeModel)
	walk = func(depth int, l domain.Life, m lifeModel) {
		if depth == length || t.Failed() {
			return
		}
		for i, step := range steps {
			l, m := l, m
			order[depth] = i
			before, _ := l.Status()
			wrong := step.do(&l, &m)
			status, ended := l.Status()
			wrong += differs("status", status, m.status) + differs("has ended", ended, m.status != domain.StatusNone)
			wrong += differs("usable", l.Usable() == nil, m.alive())
			if before != domain.StatusNone {
				wrong += differs("the status that it had", status, before)
			}
			if wrong != "" {
				var names []string
				for _, i := range order[:depth+1] {
					names = append(names, steps[i].name)
				}
				t.Errorf("after %s: %s", strings.Join(names, ", "), wrong)
				return
			}
			walk(depth+1, l, m)
		}
	}
	walk(0, domain.Life{}, lifeModel{})
}

func TestProxyNames(t *testing.T) {
	for name, want := range map[string]error{
		"a": nil, "my-Proxy_2": nil, strings.Repeat("x", 64): nil,
		"":                      domain.ErrInvalidProxyName,
		strings.Repeat("x", 65): domain.ErrInvalidProxyName,
		"a/b":                   domain.ErrInvalidProxyName,
		"..":                    domain.ErrInvalidProxyName,
		"a%2fb":                 domain.ErrInvalidProxyName,
		"naïve":                 domain.ErrInvalidProxyName,
		"engine":                domain.ErrNamingConflict,
		"a b":                   domain.ErrInvalidProxyName,
	} {
		if err := domain.CheckProxyName(name); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
}
