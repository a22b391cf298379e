package guest

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// pollCounter is a host that knows how many polls are open.
type pollCounter struct {
	*fakeHost
	open, most atomic.Int64
}

func (h *pollCounter) Poll(ctx context.Context) (domain.Action, error) {
	if n := h.open.Add(1); n > h.most.Load() {
		h.most.Store(n)
	}
	defer h.open.Add(-1)
	return h.fakeHost.Poll(ctx)
}

// slowFiles are files that can't be opened before they may.
type slowFiles struct {
	fakeFiles
	may chan struct{}
}

func (f slowFiles) Open(path string) (ports.File, error) {
	<-f.may
	return f.fakeFiles.Open(path)
}

// A folder's files come by one action each: one poll after the other would bring them one round trip after
// the other. A host parks four polls and ends the oldest beyond that, so there must not be as many.
func TestMorePollsWhileTheHostAsksForSeveralThings(t *testing.T) {
	may := make(chan struct{})
	var host *pollCounter
	inBubble(t, func(w *world) {
		may = make(chan struct{})
		host = &pollCounter{fakeHost: w.host}
		w.config.Host, w.config.Files = host, slowFiles{fakeFiles{"/file": "content"}, may}
	}, func(w *world) {
		w.same("polls of an idle guest", int64(1), host.open.Load())
		w.offer(domain.GetArtifact("first", "/file"))
		w.settle(time.Second)
		w.same("polls while the host asks for one thing", int64(1), host.open.Load())
		for i := range 20 {
			w.offer(domain.GetArtifact(domain.ActionID(strconv.Itoa(i)), "/file"))
		}
		w.settle(time.Second)
		w.same("polls while it asks for several", int64(1+morePolls), host.open.Load())
		close(may)
		w.settle(time.Second)
		w.same("replies", 21, len(w.peer.Seen().Replies))
		w.settle(time.Minute)
		w.same("polls once there is nothing to do", int64(1), host.open.Load())
		w.same("the most polls", int64(1+morePolls), host.most.Load())
	})
}

// What goes wrong with one of several polls is for the first to see to, which asks on.
func TestTheFirstPollAloneOutlivesTheHost(t *testing.T) {
	var may chan struct{}
	var host *pollCounter
	inBubble(t, func(w *world) {
		may = make(chan struct{})
		host = &pollCounter{fakeHost: w.host}
		w.config.Host, w.config.Files = host, slowFiles{fakeFiles{"/file": "content"}, may}
	}, func(w *world) {
		for i := range 20 { // of three, the second poll may take the one that would have had the first begin a third
			w.offer(domain.GetArtifact(domain.ActionID(strconv.Itoa(i)), "/file"))
		}
		w.settle(time.Second)
		w.same("polls", int64(1+morePolls), host.open.Load())
		w.host.goAway(errAway)
		w.settle(time.Minute)
		w.same("polls of a host that is away", int64(0), host.open.Load())
		w.host.goAway(nil)
		w.settle(time.Minute)
		w.same("polls once it is back", int64(1), host.open.Load())
		close(may)
	})
}

// newHost is one that asks for what these guest-tools can't do, of whichever poll comes beside another.
type newHost struct {
	*pollCounter
	asked atomic.Int64
}

func (h *newHost) Poll(ctx context.Context) (domain.Action, error) {
	if h.open.Load() > 0 && h.asked.Load() < 10 {
		h.asked.Add(1)
		return domain.Action{}, fmt.Errorf("%w: dance", domain.ErrUnknownKind)
	}
	return h.pollCounter.Poll(ctx)
}

// The polls beside the first once dropped an action of an unknown kind without a word.
func TestWhatThisVersionCantDoIsToldByEachPoll(t *testing.T) {
	may := make(chan struct{})
	var host *newHost
	inBubble(t, func(w *world) {
		may = make(chan struct{})
		host = &newHost{pollCounter: &pollCounter{fakeHost: w.host}}
		w.config.Host, w.config.Files = host, slowFiles{fakeFiles{"/file": "content"}, may}
	}, func(w *world) {
		for i := range 20 {
			w.offer(domain.GetArtifact(domain.ActionID(strconv.Itoa(i)), "/file"))
		}
		w.settle(time.Minute)
		close(may)
		w.settle(time.Second)
		w.same("asked for", int64(10), host.asked.Load())
		w.same("told", 10, w.log.count("something that this version can't do"))
		w.same("replies", 20, len(w.peer.Seen().Replies))
	})
}
