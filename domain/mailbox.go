package domain

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Ticket names one parked poll.
type Ticket uint64

// Patience is how long an action waits for each step of its life.
type Patience struct {
	Offer time.Duration // for a poll to take it
	Reply time.Duration // from then on, for the headers of its reply
}

var (
	// ErrDuplicateAction is an id that is in use.
	ErrDuplicateAction = errors.New("an action with this id is already waiting")
	// ErrTooManyActions is an action too many at once.
	ErrTooManyActions = errors.New("too many actions are waiting at once")
)

// Mailbox is where actions wait for a poll, and polls for an action.
//
// An action is offered; handed to a poll, which must happen within Patience.Offer; claimed by its
// reply, within Patience.Reply of the handing over. Claiming uses its id up. An action whose poll died
// before it was written out is returned, and keeps what is left of its time on offer. The queue is in
// the order of offering, always: so a returned action is at the head, before all that no poll has had,
// and of two returned ones the older comes first, in whatever order their polls died.
//
// Of the parked polls the newest gets the next action: it is the one most likely to be alive. The
// others stay where they are, since answering them would only make two pollers chase each other.
// There are never more than a fixed number of either.
type Mailbox struct {
	patience   Patience
	maxActions int
	maxPolls   int
	waiting    map[ActionID]*waiting
	queue      []ActionID // on offer, the oldest first
	polls      []Ticket   // parked, the oldest first
	lastTicket Ticket
	lastTurn   uint64
}

// waiting is an action between its offer and its reply.
type waiting struct {
	action   Action
	turn     uint64    // its place in the order of offering
	offered  time.Time // the end of its offer
	replied  time.Time // the end of the wait for its reply, once handed over
	handed   bool      // it is with a poll
	everSeen bool      // it was with a poll at some time, so an answer may come even if it was returned
	recalled bool      // a Recall has returned it
	polled   bool      // PassPoll was true for it
	answered bool      // PassReply was true for it
}

// NewMailbox makes an empty mailbox for at most maxActions and maxPolls at a time.
func NewMailbox(patience Patience, maxActions, maxPolls int) *Mailbox {
	return &Mailbox{
		patience:   patience,
		maxActions: max(maxActions, 1),
		maxPolls:   max(maxPolls, 1),
		waiting:    make(map[ActionID]*waiting),
	}
}

// Offer queues an action. Call Match afterwards.
func (m *Mailbox) Offer(action Action, now time.Time) error {
	switch {
	case action.kind == KindNone:
		return fmt.Errorf("%w: there is nothing to do in %q", ErrInvalidAction, action.kind)
	case m.waiting[action.id] != nil:
		return fmt.Errorf("%w: %s", ErrDuplicateAction, action)
	case len(m.waiting) >= m.maxActions:
		return fmt.Errorf("%w: %d", ErrTooManyActions, m.maxActions)
	}
	m.lastTurn++
	m.waiting[action.id] = &waiting{action: action, turn: m.lastTurn, offered: now.Add(m.patience.Offer)}
	m.queue = append(m.queue, action.id)
	return nil
}

// Withdraw forgets an action whose caller gave up; a reply to it is refused from now on. It does
// nothing for one that was claimed.
func (m *Mailbox) Withdraw(id ActionID) {
	delete(m.waiting, id)
	m.unqueue(id)
}

func (m *Mailbox) unqueue(id ActionID) {
	if i := slices.Index(m.queue, id); i >= 0 {
		m.queue = slices.Delete(m.queue, i, i+1)
	}
}

// Park takes in a poll. Where there are too many, the oldest has to go: evicted is its ticket, to be
// answered with nothing, and else zero. Call Match afterwards.
func (m *Mailbox) Park() (ticket, evicted Ticket) {
	if len(m.polls) >= m.maxPolls {
		evicted = m.polls[0]
		m.polls = slices.Delete(m.polls, 0, 1)
	}
	m.lastTicket++
	m.polls = append(m.polls, m.lastTicket)
	return m.lastTicket, evicted
}

// Leave takes a poll out: it died, or its time is over. False means that it was not parked any more:
// Match has handed it an action, or Park evicted it.
func (m *Mailbox) Leave(ticket Ticket) bool {
	i := slices.Index(m.polls, ticket)
	if i < 0 {
		return false
	}
	m.polls = slices.Delete(m.polls, i, i+1)
	return true
}

// Match hands the next action to the newest poll, where there are both. Call it until ok is false.
func (m *Mailbox) Match(now time.Time) (ticket Ticket, action Action, ok bool) {
	if len(m.polls) == 0 {
		return 0, Action{}, false
	}
	for i, id := range m.queue {
		w := m.waiting[id]
		if !now.Before(w.offered) {
			continue // too late: its caller is about to hear it from Expire
		}
		ticket = m.polls[len(m.polls)-1]
		m.polls = m.polls[:len(m.polls)-1]
		m.queue = slices.Delete(m.queue, i, i+1)
		w.handed, w.everSeen = true, true
		w.replied = now.Add(m.patience.Reply)
		return ticket, w.action, true
	}
	return 0, Action{}, false
}

// Return puts an action that did not get out of the host back in its turn: before all that were
// offered later. It does nothing where the action was answered, withdrawn or has expired meanwhile.
// Call Match afterwards.
func (m *Mailbox) Return(id ActionID) {
	w := m.waiting[id]
	if w == nil || !w.handed {
		return
	}
	w.handed = false
	at := slices.IndexFunc(m.queue, func(other ActionID) bool { return m.waiting[other].turn > w.turn })
	if at < 0 {
		at = len(m.queue)
	}
	m.queue = slices.Insert(m.queue, at, id)
}

// Recall returns all that is with polls and was never recalled before, and tells which: whoever took it is gone,
// as a guest is that rebooted. Who claims to have rebooted again and again gets an action once more, and not
// without end. Call Match afterwards.
func (m *Mailbox) Recall() []ActionID {
	var ids []ActionID
	for id, w := range m.waiting {
		if w.handed && !w.recalled {
			w.recalled = true
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		m.Return(id)
	}
	return ids
}

// Pending is the action that may be answered by id now.
func (m *Mailbox) Pending(id ActionID, now time.Time) (Action, error) {
	w := m.waiting[id]
	if w == nil || !w.everSeen || !now.Before(w.deadline()) {
		return Action{}, ErrUnknownAction
	}
	return w.action, nil
}

// PassReply tells, once for each action, that it may be answered by id now: for a reply that the host asked for,
// and that would be one request too many otherwise. Of those that guess, repeat or use no id up, none passes.
func (m *Mailbox) PassReply(id ActionID, now time.Time) bool {
	if _, err := m.Pending(id, now); err != nil || m.waiting[id].answered {
		return false
	}
	m.waiting[id].answered = true
	return true
}

// PassPoll tells, once for each action, that one is on offer and no poll there to take it: PassReply for polls.
func (m *Mailbox) PassPoll(now time.Time) bool {
	for _, id := range m.queue {
		if w := m.waiting[id]; !w.polled && now.Before(w.offered) {
			w.polled = true
			return true
		}
	}
	return false
}

// Claim is Pending, and uses the id up.
func (m *Mailbox) Claim(id ActionID, now time.Time) (Action, error) {
	action, err := m.Pending(id, now)
	if err != nil {
		return Action{}, err
	}
	m.Withdraw(id)
	return action, nil
}

// Deadline is when the action's wait ends, as things stand; handing it over moves it. False means
// that it isn't waiting: it was claimed, withdrawn, or has expired.
func (m *Mailbox) Deadline(id ActionID) (time.Time, bool) {
	w := m.waiting[id]
	if w == nil {
		return time.Time{}, false
	}
	return w.deadline(), true
}

func (w *waiting) deadline() time.Time {
	if w.handed {
		return w.replied
	}
	return w.offered
}

// Expire drops the action if its time is over, and tells which wait it was: ErrNoPoll or ErrNoReply.
// It is nil while there is time left, and for an action that isn't waiting.
func (m *Mailbox) Expire(id ActionID, now time.Time) error {
	w := m.waiting[id]
	if w == nil || now.Before(w.deadline()) {
		return nil
	}
	reason := ErrNoPoll
	if w.handed {
		reason = ErrNoReply
	}
	m.Withdraw(id)
	return reason
}

// Polls is how many polls are parked, Actions how many actions wait, for a poll or for their reply.
func (m *Mailbox) Polls() int { return len(m.polls) }

// Actions is how many actions wait, for a poll or for their reply.
func (m *Mailbox) Actions() int { return len(m.waiting) }
