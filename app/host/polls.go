package host

import (
	"context"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// stoppedPoll is how long a poll hangs once polls are stopped: an answer at once would make an old
// guest ask again at once, for ever.
const stoppedPoll = time.Second

// Poll implements ports.GuestAPI.
func (s *Service) Poll(ctx context.Context, deliver func(domain.Action) error) error {
	defer s.request(true)()
	select {
	case <-s.polling:
		return s.pollStopped(ctx, deliver)
	default:
	}
	ticket, mail := s.park()
	hold := time.NewTimer(s.limits.Hold)
	defer hold.Stop()
	var action domain.Action
	select {
	case action = <-mail:
	case <-hold.C:
		action = s.leave(ticket, mail)
	case <-s.polling:
		action = s.leave(ticket, mail)
	case <-ctx.Done(): // the guest hung up: hand nothing out
		s.giveBack(s.leave(ticket, mail))
		return context.Cause(ctx)
	}
	if ctx.Err() != nil { // it hung up just as the action came
		s.giveBack(action)
		return context.Cause(ctx)
	}
	if err := deliver(action); err != nil {
		s.giveBack(action)
		return err
	}
	if action.Kind() != domain.KindNone {
		s.log.Debug("action handed to the guest", "action", action)
	}
	return nil
}

func (s *Service) pollStopped(ctx context.Context, deliver func(domain.Action) error) error {
	wait := time.NewTimer(stoppedPoll)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-s.closing.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return deliver(domain.Action{})
}

// park queues a poll. Its mail is one action at most, or one of KindNone where it had to go.
func (s *Service) park() (domain.Ticket, chan domain.Action) {
	mail := make(chan domain.Action, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	ticket, evicted := s.mailbox.Park()
	s.parked[ticket] = mail
	if old, ok := s.parked[evicted]; ok {
		delete(s.parked, evicted)
		old <- domain.Action{}
		if s.manyPolls.again() {
			s.log.Warn("a poll was ended: the guest has more at once than the limit Polls allows", "limit", s.limits.Polls, "time", s.manyPolls)
		}
	}
	s.match()
	return ticket, mail
}

// evictPolls answers all parked polls with nothing to do; s.mu must be held.
func (s *Service) evictPolls() {
	for ticket, mail := range s.parked {
		s.mailbox.Leave(ticket)
		delete(s.parked, ticket)
		mail <- domain.Action{} // has room for it
	}
}

// match hands actions to polls; s.mu must be held.
func (s *Service) match() {
	for {
		ticket, action, ok := s.mailbox.Match(time.Now())
		if !ok {
			return
		}
		s.parked[ticket] <- action // has room for the one that it gets
		delete(s.parked, ticket)
	}
}

// leave takes a poll out, and returns the action that it was given in the same moment, if any.
func (s *Service) leave(ticket domain.Ticket, mail <-chan domain.Action) domain.Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mailbox.Leave(ticket) {
		delete(s.parked, ticket)
		return domain.Action{}
	}
	return <-mail // sent before the ticket left, under the lock
}

// giveBack returns an action that did not get out to the head of the queue.
func (s *Service) giveBack(action domain.Action) {
	if action.Kind() == domain.KindNone {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mailbox.Return(action.ID())
	s.match()
	s.lookAgain(action.ID())
}

// lookAgain has whoever waits for an action that was returned look at its deadline; s.mu must be held.
func (s *Service) lookAgain(id domain.ActionID) {
	if a := s.asks[id]; a != nil {
		select {
		case a.back <- struct{}{}:
		default: // it looks again already
		}
	}
}
