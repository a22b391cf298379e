package host

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// stoppedPoll is how long a poll hangs once polls are stopped: an answer at once would make an old
// guest ask again at once, for ever.
const stoppedPoll = time.Second

// poll is a guest's poll that waits here: a ports.Poll.
type poll struct {
	service *Service
	ticket  domain.Ticket // zero is none: it came when polls were stopped
	over    atomic.Bool   // it was delivered to, or has left

	// Guarded by Service.mu.
	hold   *time.Timer // fires when it is to be answered with nothing
	ready  bool
	action domain.Action // once it is ready
	wake   func()        // to be called when it is; nil where nobody waits
}

// Poll implements ports.GuestAPI.
func (s *Service) Poll(ctx context.Context, deliver func(domain.Action) error) error {
	p := s.Park()
	ready := make(chan struct{})
	p.Notify(func() { close(ready) })
	select {
	case <-ready:
	case <-ctx.Done():
	}
	if ctx.Err() != nil { // the guest hung up, maybe just as the action came: hand nothing out
		p.Leave()
		return context.Cause(ctx)
	}
	return p.Deliver(deliver)
}

// Park implements ports.GuestAPI.
func (s *Service) Park() ports.Poll {
	s.request(true)
	p := &poll{service: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noPolls {
		if s.late == nil {
			s.late = make(map[*poll]struct{})
		}
		s.late[p] = struct{}{}
		p.hold = time.AfterFunc(stoppedPoll, p.expire)
		if s.isClosed {
			p.unpark()
		}
		return p
	}
	ticket, evicted := s.mailbox.Park()
	p.ticket = ticket
	p.hold = time.AfterFunc(s.limits.Hold, p.expire)
	s.parked[ticket] = p
	if old := s.parked[evicted]; old != nil {
		delete(s.parked, evicted)
		old.give(domain.Action{})
		if s.manyPolls.again() {
			s.log.Warn("a poll was ended: the guest has more at once than the limit Polls allows", "limit", s.limits.Polls, "time", s.manyPolls)
		}
	}
	s.match()
	return p
}

// give makes the poll ready, with its action, or with nothing to do; Service.mu must be held.
func (p *poll) give(action domain.Action) {
	p.ready, p.action = true, action
	if p.wake != nil {
		p.wake()
		p.wake = nil
	}
}

// expire ends the poll's time.
func (p *poll) expire() {
	p.service.mu.Lock()
	defer p.service.mu.Unlock()
	p.unpark()
}

// unpark takes the poll out, and makes it ready where it isn't; Service.mu must be held.
func (p *poll) unpark() {
	if p.ready {
		return
	}
	if p.ticket == 0 {
		delete(p.service.late, p)
	} else {
		p.service.mailbox.Leave(p.ticket)
		delete(p.service.parked, p.ticket)
	}
	p.give(domain.Action{})
}

// Notify implements ports.Poll.
func (p *poll) Notify(wake func()) {
	p.service.mu.Lock()
	defer p.service.mu.Unlock()
	if p.ready {
		wake()
		return
	}
	p.wake = wake
}

// end takes the poll out, and tells the action that it had been given. First tells that it has not ended before.
func (p *poll) end() (action domain.Action, first bool) {
	if !p.over.CompareAndSwap(false, true) {
		return domain.Action{}, false
	}
	p.service.mu.Lock()
	defer p.service.mu.Unlock()
	p.wake = nil
	p.unpark()
	p.hold.Stop()
	return p.action, true
}

// Deliver implements ports.Poll.
func (p *poll) Deliver(deliver func(domain.Action) error) error {
	action, first := p.end()
	if !first {
		return nil
	}
	defer p.service.requestEnded()
	if err := deliver(action); err != nil {
		p.service.giveBack(action)
		return err
	}
	if action.Kind() != domain.KindNone {
		p.service.log.Debug("action handed to the guest", "action", action)
	}
	return nil
}

// Leave implements ports.Poll.
func (p *poll) Leave() {
	if action, first := p.end(); first {
		p.service.giveBack(action)
		p.service.requestEnded()
	}
}

// evictPolls answers all parked polls with nothing to do; s.mu must be held.
func (s *Service) evictPolls() {
	for _, p := range s.parked {
		p.unpark()
	}
}

// evictLate answers those that came when polls were stopped; s.mu must be held.
func (s *Service) evictLate() {
	for p := range s.late {
		p.unpark()
	}
}

// match hands actions to polls; s.mu must be held.
func (s *Service) match() {
	for {
		ticket, action, ok := s.mailbox.Match(time.Now())
		if !ok {
			return
		}
		p := s.parked[ticket]
		delete(s.parked, ticket)
		p.give(action)
	}
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
