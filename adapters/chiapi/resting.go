package chiapi

import (
	"net/http"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// restingPoll is a poll that has waited for a while, and is likely to wait on: most guests do nothing else. Its
// connection is detached, so that it costs its host one goroutine and no buffer.
type restingPoll struct {
	poll    ports.Poll
	conn    wire.Detached
	asked   func()
	release func() // of the connection, where it is claimed
}

// newRestingPoll takes over what the poll's request has.
func newRestingPoll(poll ports.Poll, conn wire.Detached, entry *entry) *restingPoll {
	p := &restingPoll{poll, conn, entry.asked, entry.release}
	entry.release = nil
	return p
}

// serve answers the poll.
func (p *restingPoll) serve() {
	if p.release != nil {
		defer p.release()
	}
	defer p.conn.Close() // where it isn't resumed
	defer p.poll.Leave() // where nothing is delivered
	p.poll.Notify(p.conn.Wake)
	if err := p.conn.Await(); err != nil {
		return // it hung up
	}
	if p.poll.Deliver(p.deliver) == nil {
		p.conn.Resume()
	}
}

func (p *restingPoll) deliver(action domain.Action) error {
	if p.conn.HungUp() { // the kernel would take the answer, and drop it
		return errHungUp
	}
	if err := respond(p.conn, http.StatusOK, wire.EncodeAction(action)); err != nil {
		return err
	}
	if action.Kind() != domain.KindNone {
		p.asked()
		p.conn.Claim()()
	}
	return nil
}
