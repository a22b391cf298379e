package domain_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

// mailbox is a Mailbox in a table's words: what goes in are ids and seconds, what comes out are ids.
type mailbox struct {
	*domain.Mailbox
	t *testing.T
}

// newMailbox waits 30 s for a poll, and 20 s for a reply.
func newMailbox(t *testing.T) mailbox {
	patience := domain.Patience{Offer: 30 * time.Second, Reply: 20 * time.Second}
	return mailbox{domain.NewMailbox(patience, 4, 3), t}
}

func (m mailbox) offer(seconds float64, ids ...domain.ActionID) {
	m.t.Helper()
	for _, id := range ids {
		if err := m.Offer(kill(m.t, id), at(seconds)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// poll parks a poll, and tells which action it gets, if any.
func (m mailbox) poll(seconds float64) domain.ActionID {
	m.t.Helper()
	parked, _ := m.Park()
	ticket, action, ok := m.Match(at(seconds))
	if ok && ticket != parked {
		m.t.Errorf("poll %d got %s, poll %d is newer", ticket, action, parked)
	}
	return action.ID()
}

// wants tells what polls get from now on, one after the other.
func (m mailbox) wants(seconds float64, ids ...domain.ActionID) {
	m.t.Helper()
	var got []domain.ActionID
	for id := m.poll(seconds); id != ""; id = m.poll(seconds) {
		got = append(got, id)
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		m.t.Errorf("polls get (-want +got):\n%s", diff)
	}
}

func (m mailbox) claims(seconds float64, id domain.ActionID) {
	m.t.Helper()
	if pending, err := m.Pending(id, at(seconds)); err != nil || pending.ID() != id {
		m.t.Errorf("pending is %s, %v", pending, err)
	}
	if claimed, err := m.Claim(id, at(seconds)); err != nil || claimed.ID() != id {
		m.t.Errorf("claimed is %s, %v", claimed, err)
	}
	m.refuses(seconds, id)
	if at, ok := m.Deadline(id); ok {
		m.t.Errorf("%s was claimed, and waits until %s", id, at)
	}
}

func (m mailbox) refuses(seconds float64, id domain.ActionID) {
	m.t.Helper()
	if pending, err := m.Pending(id, at(seconds)); err != domain.ErrUnknownAction || pending.Kind() != domain.KindNone {
		m.t.Errorf("pending is %s, %v", pending, err)
	}
	if claimed, err := m.Claim(id, at(seconds)); err != domain.ErrUnknownAction || claimed.Kind() != domain.KindNone {
		m.t.Errorf("claimed is %s, %v", claimed, err)
	}
}

func (m mailbox) expires(seconds float64, id domain.ActionID, reason error) {
	m.t.Helper()
	if end, ok := m.Deadline(id); !ok || !end.Equal(at(seconds)) {
		m.t.Errorf("%s waits (%v) until %s after the start, not %v s", id, ok, end.Sub(start), seconds)
	}
	if err := m.Expire(id, at(seconds).Add(-1)); err != nil {
		m.t.Errorf("%s expires early: %v", id, err)
	}
	if err := m.Expire(id, at(seconds)); !errors.Is(err, reason) {
		m.t.Errorf("%s expires with %v, not %v", id, err, reason)
	}
	if err := m.Expire(id, at(seconds)); err != nil {
		m.t.Errorf("%s expires again: %v", id, err)
	}
	if _, ok := m.Deadline(id); ok {
		m.t.Errorf("%s has expired and still waits", id)
	}
	m.refuses(seconds, id)
}

func kill(t interface {
	Helper()
	Fatal(...any)
}, id domain.ActionID) domain.Action {
	t.Helper()
	a, err := domain.KillProcess(id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestMailboxOrders(t *testing.T) {
	tests := map[string]func(t *testing.T, m mailbox){
		"first come, first served": func(_ *testing.T, m mailbox) {
			m.offer(0, "a", "b", "c")
			m.wants(1, "a", "b", "c")
		},
		"a poll that waits gets what is offered later": func(t *testing.T, m mailbox) {
			ticket, _ := m.Park()
			m.offer(1, "a")
			if got, action, ok := m.Match(at(1)); !ok || got != ticket || action.ID() != "a" {
				t.Errorf("poll %d gets %s, %v", got, action, ok)
			}
			if m.Leave(ticket) {
				t.Error("the poll was still parked with its action in hand")
			}
		},
		"the newest poll gets it, the older ones stay": func(t *testing.T, m mailbox) {
			first, _ := m.Park()
			second, _ := m.Park()
			m.offer(0, "a", "b", "c")
			for _, want := range []domain.Ticket{second, first} {
				if got, _, ok := m.Match(at(1)); !ok || got != want {
					t.Errorf("poll %d gets it (%v), not %d", got, ok, want)
				}
			}
			if got, action, ok := m.Match(at(1)); ok {
				t.Errorf("poll %d, which nobody parked, gets %s", got, action)
			}
		},
		// The ancestor lost an action for 30 s to a poll whose connection had died.
		"a poll that died before it got anything takes nothing along": func(t *testing.T, m mailbox) {
			ticket, _ := m.Park()
			if !m.Leave(ticket) || m.Leave(ticket) {
				t.Error("it leaves once")
			}
			m.offer(0, "a")
			if got, action, ok := m.Match(at(1)); ok {
				t.Errorf("poll %d, which is dead, gets %s", got, action)
			}
			m.wants(1, "a")
		},
		"a poll that died before the write gives its action back": func(_ *testing.T, m mailbox) {
			m.offer(0, "a", "b")
			m.poll(1)
			m.Return("a")
			m.wants(2, "a", "b")
			m.claims(3, "a")
		},
		"two that come back keep their order, the older poll dying first": func(_ *testing.T, m mailbox) {
			m.offer(0, "a", "b", "c")
			m.poll(1)
			m.poll(1)
			m.Return("a")
			m.Return("b")
			m.wants(2, "a", "b", "c")
		},
		"and the younger poll dying first": func(_ *testing.T, m mailbox) {
			m.offer(0, "a", "b", "c")
			m.poll(1)
			m.poll(1)
			m.Return("b")
			m.Return("a")
			m.wants(2, "a", "b", "c")
		},
		"the last on offer can come back too": func(_ *testing.T, m mailbox) {
			m.offer(0, "a", "b")
			m.poll(1)
			m.poll(1)
			m.Return("a")
			m.Return("b")
			m.wants(2, "a", "b")
		},
		"what comes back twice is there once": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.poll(1)
			m.Return("a")
			m.Return("a")
			m.wants(2, "a")
		},
		"what was never handed out can't come back": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.Return("a")
			m.Return("unknown")
			m.wants(2, "a")
		},
		// The guest read the action although the host saw its connection fail.
		"a reply arrives though the write failed": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.poll(1)
			m.Return("a")
			m.claims(2, "a")
			m.wants(3)
		},
		"it arrives before the write is known to have failed": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.poll(1)
			m.claims(2, "a")
			m.Return("a")
			m.wants(3)
		},
		"it arrives while the action is with the next poll": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.poll(1)
			m.Return("a")
			m.poll(2)
			m.claims(3, "a")
			m.wants(4)
		},
		"an id that was never handed out can only be guessed": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.refuses(1, "a")
			m.refuses(1, "")
			m.wants(2, "a")
			m.claims(2, "a")
		},
		"nobody polls in time": func(_ *testing.T, m mailbox) {
			m.offer(1, "a")
			m.wants(31)
			m.expires(31, "a", domain.ErrNoPoll)
			m.wants(31)
		},
		"nobody replies in time, which counts from the handing over": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.poll(29)
			m.expires(49, "a", domain.ErrNoReply)
		},
		"a reply just in time": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.poll(29)
			m.claims(48.999, "a")
		},
		"a claim after the deadline, though nobody has expired it yet": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.poll(29)
			m.refuses(49, "a")
			m.expires(49, "a", domain.ErrNoReply)
		},
		"what came back has what is left of its offer": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.poll(29)
			m.Return("a")
			m.refuses(30, "a")
			m.wants(30)
			m.expires(30, "a", domain.ErrNoPoll)
		},
		"one that is too late doesn't hold up the next": func(_ *testing.T, m mailbox) {
			m.offer(0, "a")
			m.offer(5, "b")
			m.wants(31, "b")
			m.expires(30, "a", domain.ErrNoPoll)
		},
		"a caller who gave up": func(_ *testing.T, m mailbox) {
			m.offer(0, "a", "b", "c")
			m.poll(1)
			m.Withdraw("a")
			m.Withdraw("b")
			m.Withdraw("unknown")
			m.refuses(2, "a")
			m.Return("a")
			m.wants(3, "c")
		},
		"an unknown action doesn't expire": func(t *testing.T, m mailbox) {
			if err := m.Expire("unknown", at(1e6)); err != nil {
				t.Error(err)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, newMailbox(t)) })
	}
}

func TestMailboxRefusesOffers(t *testing.T) {
	m := newMailbox(t)
	m.offer(0, "a", "b", "c")
	m.poll(1)
	for _, id := range []domain.ActionID{"a", "b"} {
		if err := m.Offer(kill(t, id), at(1)); !errors.Is(err, domain.ErrDuplicateAction) {
			t.Errorf("%s is offered twice: %v", id, err)
		}
	}
	if err := m.Offer(domain.Action{}, at(1)); !errors.Is(err, domain.ErrInvalidAction) {
		t.Errorf("nothing to do is offered: %v", err)
	}
	m.offer(1, "d")
	if err := m.Offer(kill(t, "e"), at(1)); !errors.Is(err, domain.ErrTooManyActions) {
		t.Errorf("a fifth of four is offered: %v", err)
	}
	if m.Actions() != 4 {
		t.Errorf("%d actions wait, not 4", m.Actions())
	}
	m.claims(2, "a") // the one with the poll counted too
	m.offer(2, "e")
	m.wants(2, "b", "c", "d", "e")
}

func TestMailboxEvictsTheOldestPoll(t *testing.T) {
	m := newMailbox(t)
	var tickets, evicted []domain.Ticket
	for range 5 {
		ticket, out := m.Park()
		if slices.Contains(tickets, ticket) || ticket == 0 {
			t.Errorf("the ticket %d is no new one", ticket)
		}
		tickets = append(tickets, ticket)
		evicted = append(evicted, out)
	}
	if diff := cmp.Diff([]domain.Ticket{0, 0, 0, tickets[0], tickets[1]}, evicted); diff != "" {
		t.Errorf("evicted are (-want +got):\n%s", diff)
	}
	if m.Polls() != 3 {
		t.Errorf("%d polls are parked, not 3", m.Polls())
	}
	if m.Leave(tickets[0]) || m.Leave(0) {
		t.Error("a poll left that was not there")
	}
}

func TestMailboxHasRoomForOne(t *testing.T) {
	m := mailbox{domain.NewMailbox(domain.Patience{Offer: time.Second, Reply: time.Second}, 0, -1), t}
	m.offer(0, "a")
	m.wants(0, "a")
	m.claims(0, "a")
}
