package guest

import (
	"sync"

	"github.com/hexworker/metaservice/domain"
)

const (
	// maxActions is how many actions run at once, not counting kills: those never wait, or a kill could
	// not end what all the others wait for.
	maxActions = 64
	// maxWaiting bounds the actions that wait for one of those to end. A host has no more open.
	maxWaiting = 4096
	// maxShells is how many shells there may be at once. They don't count as actions: they stay.
	maxShells = 1024
	// maxSeen is how many ids are remembered: many times those that a host may hand out again.
	maxSeen = 4 * maxWaiting
)

// crew runs actions, each in a goroutine of its own, the one that has waited longest next.
type crew struct {
	run func(domain.Action)
	all sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	busy    int
	shells  int
	waiting []domain.Action
	seen    map[domain.ActionID]bool
	order   []domain.ActionID // of seen, a ring once it is full
	oldest  int
}

func newCrew(run func(domain.Action)) *crew {
	return &crew{run: run, seen: make(map[domain.ActionID]bool)}
}

// take runs an action as soon as there is room. False means that it doesn't: its id has been here
// before, or too many wait.
func (c *crew) take(action domain.Action) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed, c.seen[action.ID()]:
		return false
	case action.Kind() == domain.KindKillProcess:
		c.remember(action.ID())
		c.all.Go(func() { c.run(action) })
	case action.Kind() == domain.KindExecShell:
		if c.shells >= maxShells {
			return false
		}
		c.remember(action.ID())
		c.shells++
		c.all.Go(func() {
			c.run(action)
			c.mu.Lock()
			c.shells--
			c.mu.Unlock()
		})
	case c.busy < maxActions:
		c.remember(action.ID())
		c.busy++
		c.all.Go(func() { c.work(action) })
	case len(c.waiting) < maxWaiting:
		c.remember(action.ID())
		c.waiting = append(c.waiting, action)
	default:
		return false
	}
	return true
}

// several tells whether more than one action runs.
func (c *crew) several() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy > 1
}

func (c *crew) remember(id domain.ActionID) {
	c.seen[id] = true
	if len(c.order) < maxSeen {
		c.order = append(c.order, id)
		return
	}
	delete(c.seen, c.order[c.oldest])
	c.order[c.oldest] = id
	c.oldest = (c.oldest + 1) % maxSeen
}

// work runs an action, and then those that wait.
func (c *crew) work(action domain.Action) {
	for ok := true; ok; action, ok = c.next() {
		c.run(action)
	}
}

func (c *crew) next() (domain.Action, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 || c.closed {
		c.busy--
		return domain.Action{}, false
	}
	action := c.waiting[0]
	c.waiting = c.waiting[1:]
	return action, true
}

// close drops the actions that wait, and returns when those that run have ended.
func (c *crew) close() {
	c.mu.Lock()
	c.closed = true
	c.waiting = nil
	c.mu.Unlock()
	c.all.Wait()
}
