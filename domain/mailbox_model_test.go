package domain_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hexworker/metaservice/domain"
)

// modelAction is an action's whole life; the model forgets none.
type modelAction struct {
	id           domain.ActionID
	state        string // "on offer" or "with a poll", then at last "claimed", "withdrawn" or "expired"
	offer, reply time.Time
	handed       int  // times
	recalled     bool // after a reboot
	polled       bool // it has let a poll in beyond the rate
	answered     bool // it has let a reply in beyond the rate
}

// modelMailbox is the mailbox as naively as it can be told: all actions ever offered, in that order.
type modelMailbox struct {
	actions []*modelAction
	polls   []domain.Ticket
	now     time.Time
}

func (m *modelMailbox) find(id domain.ActionID) *modelAction {
	for _, a := range m.actions {
		if a.id == id {
			return a
		}
	}
	return &modelAction{id: id, state: "unknown"}
}

func (m *modelMailbox) deadline(a *modelAction) (end time.Time, waiting bool) {
	switch a.state {
	case "on offer":
		return a.offer, true
	case "with a poll":
		return a.reply, true
	}
	return time.Time{}, false
}

// live tells whether the action waits and its time isn't over.
func (m *modelMailbox) live(a *modelAction) bool {
	end, waiting := m.deadline(a)
	return waiting && m.now.Before(end)
}

// next is the action that the newest poll gets: the oldest on offer. One that came back is older than
// all that no poll has had, so it is at the head.
func (m *modelMailbox) next() *modelAction {
	for _, a := range m.actions {
		if a.state == "on offer" && m.live(a) && len(m.polls) > 0 {
			return a
		}
	}
	return nil
}

func (m *modelMailbox) claimable(a *modelAction) bool { return m.live(a) && a.handed > 0 }

func (m *modelMailbox) waiting() (n int) {
	for _, a := range m.actions {
		if _, waiting := m.deadline(a); waiting {
			n++
		}
	}
	return n
}

// mailboxMachine runs a Mailbox and the model side by side.
type mailboxMachine struct {
	box        *domain.Mailbox
	model      modelMailbox
	patience   domain.Patience
	maxActions int
	maxPolls   int
	tickets    []domain.Ticket                   // all there ever were
	got        map[domain.Ticket]domain.ActionID // what polls have been given
	claims     map[domain.ActionID]int
}

func newMailboxMachine(t *rapid.T) *mailboxMachine {
	seconds := rapid.Map(rapid.IntRange(3, 20), func(n int) time.Duration { return time.Duration(n) * time.Second })
	m := &mailboxMachine{
		model:      modelMailbox{now: start},
		patience:   domain.Patience{Offer: seconds.Draw(t, "offer"), Reply: seconds.Draw(t, "reply")},
		maxActions: rapid.IntRange(1, 6).Draw(t, "actions"),
		maxPolls:   rapid.IntRange(1, 4).Draw(t, "polls"),
		got:        make(map[domain.Ticket]domain.ActionID),
		claims:     make(map[domain.ActionID]int),
	}
	m.box = domain.NewMailbox(m.patience, m.maxActions, m.maxPolls)
	return m
}

// pick is an action: of four, two are with a poll, one on offer, and one is any, or an id that there
// never was.
func (m *mailboxMachine) pick(t *rapid.T) *modelAction {
	state := rapid.SampledFrom([]string{"with a poll", "with a poll", "on offer", "any"}).Draw(t, "state")
	some := []*modelAction{m.model.find("never")}
	for _, a := range m.model.actions {
		if a.state == state || state == "any" {
			some = append(some, a)
		}
	}
	return some[rapid.IntRange(min(1, len(some)-1), len(some)-1).Draw(t, "which")]
}

func (m *mailboxMachine) Offer(t *rapid.T) {
	id := domain.ActionID(fmt.Sprintf("a%d", len(m.model.actions)))
	a := &modelAction{id: id, state: "on offer", offer: m.model.now.Add(m.patience.Offer)}
	var want error
	if used := m.pick(t); rapid.IntRange(0, 4).Draw(t, "again") == 0 {
		if _, waiting := m.model.deadline(used); waiting {
			id, want = used.id, domain.ErrDuplicateAction
		}
	}
	if want == nil && m.model.waiting() >= m.maxActions {
		want = domain.ErrTooManyActions
	}
	if err := m.box.Offer(kill(t, id), m.model.now); !errors.Is(err, want) {
		t.Fatalf("offering %s: %v, not %v", id, err, want)
	}
	if want == nil {
		m.model.actions = append(m.model.actions, a)
	}
}

func (m *mailboxMachine) Park(t *rapid.T) {
	var oldest domain.Ticket
	if len(m.model.polls) == m.maxPolls {
		oldest, m.model.polls = m.model.polls[0], m.model.polls[1:]
	}
	ticket, evicted := m.box.Park()
	if evicted != oldest {
		t.Fatalf("evicted is %d, the oldest is %d", evicted, oldest)
	}
	if ticket == 0 || slices.Contains(m.tickets, ticket) {
		t.Fatalf("the ticket %d is not a new one", ticket)
	}
	m.tickets = append(m.tickets, ticket)
	m.model.polls = append(m.model.polls, ticket)
}

func (m *mailboxMachine) Leave(t *rapid.T) {
	ticket := rapid.SampledFrom(append([]domain.Ticket{0}, m.tickets...)).Draw(t, "ticket")
	i := slices.Index(m.model.polls, ticket)
	if left := m.box.Leave(ticket); left != (i >= 0) {
		t.Fatalf("poll %d leaves: %v", ticket, left)
	}
	if i >= 0 {
		m.model.polls = slices.Delete(slices.Clone(m.model.polls), i, i+1)
	}
}

func (m *mailboxMachine) Match(t *rapid.T) {
	ticket, action, ok := m.box.Match(m.model.now)
	want := m.model.next()
	if !ok || want == nil {
		if ok || want != nil {
			t.Fatalf("poll %d gets %s, %v; it should be %v", ticket, action, ok, want)
		}
		return
	}
	newest := m.model.polls[len(m.model.polls)-1]
	if ticket != newest || action.ID() != want.id {
		t.Fatalf("poll %d gets %s; the newest is %d and %s is next", ticket, action, newest, want.id)
	}
	if had, twice := m.got[ticket]; twice {
		t.Fatalf("poll %d gets %s, it has %s", ticket, action, had)
	}
	for _, a := range m.model.actions {
		if cameBack := a.handed > 0 && a.state == "on offer" && m.model.live(a); cameBack && want.handed == 0 {
			t.Fatalf("%s goes before %s, which came back", want.id, a.id)
		}
	}
	m.got[ticket] = want.id
	m.model.polls = m.model.polls[:len(m.model.polls)-1]
	want.state, want.reply = "with a poll", m.model.now.Add(m.patience.Reply)
	want.handed++
}

func (m *mailboxMachine) Return(t *rapid.T) {
	a := m.pick(t)
	m.box.Return(a.id)
	if a.state == "with a poll" {
		a.state = "on offer"
	}
}

func (m *mailboxMachine) Recall(t *rapid.T) {
	var want []domain.ActionID
	for _, a := range m.model.actions {
		if a.state == "with a poll" && !a.recalled {
			a.state, a.recalled = "on offer", true
			want = append(want, a.id)
		}
	}
	got := m.box.Recall()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%q are recalled, not %q", got, want)
	}
}

func (m *mailboxMachine) PassReply(t *rapid.T) {
	a := m.pick(t)
	if got, want := m.box.PassReply(a.id, m.model.now), m.model.claimable(a) && !a.answered; got != want {
		t.Fatalf("a reply to %s, which is %s, passes: %v", a.id, a.state, got)
	}
	a.answered = a.answered || m.model.claimable(a)
}

func (m *mailboxMachine) PassPoll(t *rapid.T) {
	var want *modelAction
	for _, a := range m.model.actions {
		if want == nil && a.state == "on offer" && m.model.live(a) && !a.polled {
			want = a
		}
	}
	if got := m.box.PassPoll(m.model.now); got != (want != nil) {
		t.Fatalf("a poll passes: %v, for %v", got, want)
	}
	if want != nil {
		want.polled = true
	}
}

func (m *mailboxMachine) Claim(t *rapid.T) {
	a := m.pick(t)
	action, err := m.box.Claim(a.id, m.model.now)
	if !m.model.claimable(a) {
		if err != domain.ErrUnknownAction {
			t.Fatalf("claiming %s, which is %s: %s, %v", a.id, a.state, action, err)
		}
		return
	}
	if err != nil || action.ID() != a.id {
		t.Fatalf("claiming %s: %s, %v", a.id, action, err)
	}
	a.state = "claimed"
	if m.claims[a.id]++; m.claims[a.id] > 1 {
		t.Fatalf("%s was claimed %d times", a.id, m.claims[a.id])
	}
}

func (m *mailboxMachine) Withdraw(t *rapid.T) {
	a := m.pick(t)
	m.box.Withdraw(a.id)
	if _, waiting := m.model.deadline(a); waiting {
		a.state = "withdrawn"
	}
}

func (m *mailboxMachine) Expire(t *rapid.T) {
	a := m.pick(t)
	var want error
	if _, waiting := m.model.deadline(a); waiting && !m.model.live(a) {
		want = map[string]error{"on offer": domain.ErrNoPoll, "with a poll": domain.ErrNoReply}[a.state]
		a.state = "expired"
	}
	if err := m.box.Expire(a.id, m.model.now); err != want {
		t.Fatalf("expiring %s: %v, not %v", a.id, err, want)
	}
}

func (m *mailboxMachine) Advance(t *rapid.T) {
	m.model.now = m.model.now.Add(time.Duration(rapid.IntRange(1, 4).Draw(t, "seconds")) * time.Second)
}

// Check is what holds after each step. That an action is nowhere lost follows from the counts and the
// deadlines: the model forgets none, and knows of each where it is.
func (m *mailboxMachine) Check(t *rapid.T) {
	if got, want := m.box.Actions(), m.model.waiting(); got != want || got > m.maxActions {
		t.Fatalf("%d actions wait, not %d, of at most %d", got, want, m.maxActions)
	}
	if got, want := m.box.Polls(), len(m.model.polls); got != want || got > m.maxPolls {
		t.Fatalf("%d polls are parked, not %d, of at most %d", got, want, m.maxPolls)
	}
	for _, a := range append(m.model.actions, m.model.find("never")) {
		end, waiting := m.model.deadline(a)
		if got, ok := m.box.Deadline(a.id); ok != waiting || !got.Equal(end) {
			t.Fatalf("%s, which is %s, waits (%v) until %s, not %s", a.id, a.state, ok, got, end)
		}
		pending, err := m.box.Pending(a.id, m.model.now)
		if m.model.claimable(a) {
			if err != nil || pending.ID() != a.id {
				t.Fatalf("pending of %s, which is %s: %s, %v", a.id, a.state, pending, err)
			}
		} else if err != domain.ErrUnknownAction || pending.Kind() != domain.KindNone {
			t.Fatalf("pending of %s, which is %s: %s, %v", a.id, a.state, pending, err)
		}
	}
}

// drain hands out all that is left to polls that come one by one, then has it all answered or expired.
func (m *mailboxMachine) drain(t *rapid.T) {
	for m.Park(t); m.model.next() != nil; m.Park(t) {
		m.Match(t)
	}
	m.Match(t)
	for _, a := range m.model.actions {
		if m.model.claimable(a) {
			if _, err := m.box.Claim(a.id, m.model.now); err != nil {
				t.Fatalf("%s, which is %s, can't be answered: %v", a.id, a.state, err)
			}
		} else if _, waiting := m.model.deadline(a); waiting {
			if err := m.box.Expire(a.id, m.model.now); err == nil {
				t.Fatalf("%s, which is %s, neither waits nor expires", a.id, a.state)
			}
		}
	}
	if m.box.Actions() != 0 {
		t.Fatalf("%d actions are left", m.box.Actions())
	}
}

func TestMailboxAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMailboxMachine(t)
		steps := map[string]func(*rapid.T){
			"":         m.Check,
			"claim":    m.Claim,
			"withdraw": m.Withdraw,
			"expire":   m.Expire,
			"leave":    m.Leave,
			"recall":   m.Recall,
			"reply":    m.PassReply,
			"poll":     m.PassPoll,
			"advance":  m.Advance,
		}
		for i := range 4 { // often, else hardly anything would come back
			steps[fmt.Sprint("offer ", i)] = m.Offer
			steps[fmt.Sprint("park ", i)] = m.Park
			steps[fmt.Sprint("match ", i)] = m.Match
			steps[fmt.Sprint("return ", i)] = m.Return
		}
		for range 8 {
			t.Repeat(steps)
		}
		m.drain(t)
	})
}
