//go:build unix

package processes

import (
	"context"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hexworker/metaservice/ports"
)

// holder is one way to hold a tree. Only empty may be called by several goroutines at once.
type holder interface {
	// freeze stops all of the tree, or what can be stopped within freezePatience, so that nothing forks
	// away from the signals that follow.
	freeze()
	// signal sends a signal to all that is alive in the tree.
	signal(syscall.Signal)
	// thaw lets it go on.
	thaw()
	// kill sends SIGKILL to all that is alive in the tree. What it missed the next call finds.
	kill()
	// empty tells that nothing in the tree is alive; a zombie isn't.
	empty() bool
	// survivors is what is alive in it.
	survivors() []ports.Survivor
}

// freezePatience bounds the wait for processes to stop: one in the kernel's hands may take for ever.
const freezePatience = 500 * time.Millisecond

// killer ends a tree in order: stop it, ask it, wait, kill it.
type killer struct {
	holder  holder
	command func() bool // tells whether the command itself is alive
	// turn holds one token. Who has it may signal: else one kill's thawing would wake what another has
	// just stopped.
	turn chan struct{}
	// killed tells that the command was alive when its tree was told to end. It is set before the command
	// can notice.
	killed atomic.Bool
}

func newKiller(h holder, command func() bool) *killer {
	k := &killer{holder: h, command: command, turn: make(chan struct{}, 1)}
	k.turn <- struct{}{}
	return k
}

// kill ends the tree, and returns what is still there. Once ctx ends it asks and waits no longer. It may
// be called by several goroutines: the one in the greatest hurry counts.
func (k *killer) kill(ctx context.Context, grace time.Duration) []ports.Survivor {
	if grace > 0 && k.ask(ctx) {
		wait(ctx, grace, k.holder.empty)
	}
	return k.force()
}

// ask asks all of the tree to end, unless ctx ends before it comes to that.
func (k *killer) ask(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case <-k.turn:
	case <-ctx.Done():
		return false
	}
	defer func() { k.turn <- struct{}{} }()
	k.holder.freeze()
	defer k.holder.thaw()
	k.note()
	k.holder.signal(syscall.SIGTERM)
	return true
}

// force kills until nothing is left, or what is left won't die.
func (k *killer) force() []ports.Survivor {
	if k.holder.empty() {
		return nil
	}
	<-k.turn
	defer func() { k.turn <- struct{}{} }()
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	k.note()
	for ctx.Err() == nil {
		k.holder.kill()
		if wait(ctx, killAgain, k.holder.empty) {
			return nil
		}
	}
	return k.holder.survivors()
}

// killAgain is how long one round of SIGKILL gets before the next looks for what it missed.
const killAgain = 100 * time.Millisecond

func (k *killer) note() {
	if k.command() {
		k.killed.Store(true)
	}
}

// wait asks until something is so, ctx ends or the time is over. Neither a cgroup nor a tree of foreign
// processes tells of its end in a way that is worth a descriptor and a goroutine for all its life.
func wait(ctx context.Context, most time.Duration, so func() bool) bool {
	over := time.NewTimer(most)
	defer over.Stop()
	pause := time.Millisecond
	for {
		if so() {
			return true
		}
		next := time.NewTimer(pause)
		select {
		case <-next.C:
		case <-over.C:
			next.Stop()
			return so()
		case <-ctx.Done():
			next.Stop()
			return so()
		}
		pause = min(2*pause, 20*time.Millisecond)
	}
}
