package domain_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

// lifeModel tells in plain words what becomes of a sandbox.
type lifeModel struct {
	begun, discarded, disposed bool
	wish                       domain.Status // what the guest was asked to end the task and the shells for
	result                     domain.Status // the guest's own word
	shells                     int
	status                     domain.Status
}

func (m *lifeModel) alive() bool { return m.begun && m.status == domain.StatusNone }

// tooLate is the error of a call to one that isn't alive, or of a shell for one that is being ended.
func (m *lifeModel) tooLate() error {
	switch {
	case !m.begun:
		return domain.ErrSandboxBuilderDiscarded
	case m.status == domain.StatusAborted:
		return domain.ErrSandboxAborted
	}
	return domain.ErrSandboxTerminated
}

// opens tells whether a shell may be opened.
func (m *lifeModel) opens() bool { return m.alive() && m.wish == domain.StatusNone }

// endAs ends it as what was asked for, else as what the guest said, else as this.
func (m *lifeModel) endAs(status domain.Status) bool {
	m.status = cmp.Or(m.wish, m.result, status)
	return true
}

// happen tells what an event brings about.
func (m *lifeModel) happen(e domain.Event) (ended, ask bool) {
	waits := m.alive() && m.result == domain.StatusNone // for the task's result
	switch e {
	case domain.EventSucceeded, domain.EventFailed:
		if !waits {
			return false, false
		}
		m.result = map[domain.Event]domain.Status{
			domain.EventSucceeded: domain.StatusSuccess, domain.EventFailed: domain.StatusFailed}[e]
		return m.shells == 0 && m.endAs(domain.StatusNone), false
	case domain.EventTimedOut:
		if !waits || m.wish != domain.StatusNone {
			return false, false
		}
		m.wish = domain.StatusTimedOut
		return false, true
	case domain.EventGuestLost:
		return m.alive() && m.endAs(domain.StatusGuestLost), false
	case domain.EventMachineDied:
		return m.alive() && m.endAs(domain.StatusMachineDied), false
	case domain.EventGaveUp:
		return m.alive() && m.wish != domain.StatusNone && m.endAs(domain.StatusNone), false
	}
	return false, false
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
	event := func(e domain.Event) func(*domain.Life, *lifeModel) string {
		return func(l *domain.Life, m *lifeModel) string {
			wantEnded, wantAsk := m.happen(e)
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
		{"open a shell", func(l *domain.Life, m *lifeModel) string {
			var want error
			if m.opens() {
				m.shells++
			} else {
				want = m.tooLate()
			}
			return differs("error", l.OpenShell(), want)
		}},
		{"a shell's end", func(l *domain.Life, m *lifeModel) string {
			wantEnded := false
			if m.shells > 0 {
				m.shells--
				wantEnded = m.alive() && m.result != domain.StatusNone && m.shells == 0 && m.endAs(domain.StatusNone)
			}
			return differs("ended", l.ShellEnded(), wantEnded)
		}},
		{"started", event(domain.EventStarted)},
		{"succeeded", event(domain.EventSucceeded)},
		{"failed", event(domain.EventFailed)},
		{"timed out", event(domain.EventTimedOut)},
		{"guest lost", event(domain.EventGuestLost)},
		{"machine died", event(domain.EventMachineDied)},
		{"gave up", event(domain.EventGaveUp)},
	}
}

// Every order of calls and events, of any length, with up to three shells at a time, against the model: a
// life that comes to where another has been goes on as that did.
func TestLifeInEveryOrder(t *testing.T) {
	type state struct {
		life  domain.Life
		model lifeModel
	}
	const shells = 3
	steps := lifeSteps()
	been := make(map[state]bool)
	var walk func(from state, order []string)
	walk = func(from state, order []string) {
		if been[from] || t.Failed() {
			return
		}
		been[from] = true
		for _, step := range steps {
			l, m := from.life, from.model
			order := append(slices.Clone(order), step.name)
			before, _ := l.Status()
			wrong := step.do(&l, &m)
			status, ended := l.Status()
			wrong += differs("status", status, m.status) + differs("has ended", ended, m.status != domain.StatusNone)
			if before != domain.StatusNone {
				wrong += differs("the status that it had", status, before)
			}
			lingers := m.opens() && m.result != domain.StatusNone
			wrong += differs("lingers", l.Phase() == domain.PhaseLingering, lingers)
			if lingers && m.shells == 0 {
				wrong += "it lingers without a shell; "
			}
			if wrong != "" {
				t.Errorf("after %s: %s", strings.Join(order, ", "), wrong)
				return
			}
			if m.shells <= shells {
				walk(state{l, m}, order)
			}
		}
	}
	walk(state{}, nil)
	ends := make(map[domain.Status]bool)
	for at := range been {
		ends[at.model.status] = true
	}
	if len(ends) != 8 { // and none
		t.Errorf("of all ends only %v were met", ends)
	}
}

// What becomes of a sandbox with shells, told in words.
func TestLivesWithShells(t *testing.T) {
	open := func(l *domain.Life) error { return l.OpenShell() }
	closed := func(l *domain.Life) error { l.ShellEnded(); return nil }
	kill := func(l *domain.Life) error { _, err := l.Kill(); return err }
	happens := func(e domain.Event) func(*domain.Life) error {
		return func(l *domain.Life) error { l.Happen(e); return nil }
	}
	succeeded, failed := happens(domain.EventSucceeded), happens(domain.EventFailed)
	for name, test := range map[string]struct {
		steps  []func(*domain.Life) error // of which the last one's error counts
		phase  domain.Phase
		status domain.Status
		err    error
	}{
		"a shell outlasts the task":            {[]func(*domain.Life) error{open, succeeded}, domain.PhaseLingering, domain.StatusNone, nil},
		"another one may be opened":            {[]func(*domain.Life) error{open, succeeded, open, closed}, domain.PhaseLingering, domain.StatusNone, nil},
		"the last one ends it":                 {[]func(*domain.Life) error{open, succeeded, open, closed, closed}, domain.PhaseEnded, domain.StatusSuccess, nil},
		"then none is opened":                  {[]func(*domain.Life) error{open, failed, closed, open}, domain.PhaseEnded, domain.StatusFailed, domain.ErrSandboxTerminated},
		"one that ended before the task":       {[]func(*domain.Life) error{open, closed, failed}, domain.PhaseEnded, domain.StatusFailed, nil},
		"killed while one lingers":             {[]func(*domain.Life) error{open, succeeded, kill, closed}, domain.PhaseEnded, domain.StatusKilled, nil},
		"killed, and it won't end":             {[]func(*domain.Life) error{open, succeeded, kill, happens(domain.EventGaveUp)}, domain.PhaseEnded, domain.StatusKilled, nil},
		"killed, none is opened":               {[]func(*domain.Life) error{open, succeeded, kill, open}, domain.PhaseEnding, domain.StatusNone, domain.ErrSandboxTerminated},
		"killed, the result before the shells": {[]func(*domain.Life) error{open, kill, succeeded}, domain.PhaseEnding, domain.StatusNone, nil},
		"a time-out ends shells, too":          {[]func(*domain.Life) error{open, happens(domain.EventTimedOut), open}, domain.PhaseEnding, domain.StatusNone, domain.ErrSandboxTerminated},
		"a time-out that is too late":          {[]func(*domain.Life) error{open, failed, happens(domain.EventTimedOut), closed}, domain.PhaseEnded, domain.StatusFailed, nil},
		"the machine dies with the shell":      {[]func(*domain.Life) error{open, happens(domain.EventMachineDied)}, domain.PhaseEnded, domain.StatusMachineDied, nil},
		"it dies when the task had its result": {[]func(*domain.Life) error{open, succeeded, happens(domain.EventMachineDied)}, domain.PhaseEnded, domain.StatusSuccess, nil},
		"the guest is lost, after the result":  {[]func(*domain.Life) error{open, failed, happens(domain.EventGuestLost)}, domain.PhaseEnded, domain.StatusFailed, nil},
		"aborted while one lingers":            {[]func(*domain.Life) error{open, succeeded, (*domain.Life).Abort, open}, domain.PhaseEnded, domain.StatusAborted, domain.ErrSandboxAborted},
	} {
		var l domain.Life
		if err := l.Start(); err != nil {
			t.Fatal(err)
		}
		l.Happen(domain.EventStarted)
		var err error
		for _, step := range test.steps {
			err = step(&l)
		}
		if status, _ := l.Status(); l.Phase() != test.phase || status != test.status || err != test.err {
			t.Errorf("%s: phase %d, status %s, %v; want phase %d, status %s, %v", name, l.Phase(), status, err, test.phase, test.status, test.err)
		}
	}
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
