package guest

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestFilesAndFolders(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.offer(domain.GetArtifact("file", "/file"))
		w.offer(domain.GetArtifact("denied", "/other"))
		w.offer(domain.ListFolder("folder", "/srv"))
		w.offer(domain.ListFolder("no folder", "/nothing"))
		w.offer(domain.ListFolder("half a folder", "/broken"))
		w.same("replies", []contract.Reply{
			{ID: "file", Content: []byte("content")},
			{ID: "denied", NotFound: true}, // version 1 has one word for all of them
			{ID: "folder", Files: []string{"/srv/a"}},
			{ID: "no folder", NotFound: true},
		}, w.peer.Seen().Replies[:4])
		if last := w.peer.Seen().Replies[4]; last.Broken == nil {
			w.Errorf("half a folder's names came as %v", last)
		}
		w.offer(domain.ListFolder("some folders denied", "/denied"))
		w.same("the names beside them", contract.Reply{ID: "some folders denied", Files: []string{"/denied/a"}}, w.peer.Seen().Replies[5])
		w.same("folders named", 10, w.log.count("a folder may not be read"))
		w.same("and counted", 1, w.log.count("folders=5"))
		w.same("the real reason is told", 11, w.log.count("permission denied\"\n")-1)
	})
}

func TestArchives(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.offer(domain.GetFolder("folder", "/srv/"))
		w.offer(domain.GetFolder("a file", "/file"))
		w.offer(domain.GetFolder("no folder", "/nothing"))
		w.offer(domain.GetFolder("some denied", "/denied"))
		w.same("replies", []contract.Reply{
			{ID: "folder", Archive: []string{"a!permission-denied"}},
			{ID: "a file", Archive: []string{".=content"}},
			{ID: "no folder", NotFound: true},
			{ID: "some denied", Archive: []string{"a!permission-denied"}},
		}, w.peer.Seen().Replies)
		w.same("folders named", 10, w.log.count("a folder may not be read"))
		w.offer(domain.GetFolder("half a folder", "/broken"))
		if last := w.peer.Seen().Replies[4]; last.Broken == nil {
			w.Errorf("half a folder came as %v", last)
		}
	})
}

// An action whose reply gets lost is the host's to repeat, under another id. The same id never runs twice.
func TestAnIDRunsOnce(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		for range 3 {
			w.offer(domain.GetArtifact("1", "/file"))
			w.settle(time.Second)
		}
		w.same("replies", 1, len(w.peer.Seen().Replies))
		w.same("told", 2, w.log.count("an action came twice"))
	})
}

func TestWhatThisVersionCantDo(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.host.set(func() { w.host.refuse["poll"] = fmt.Errorf("%w: %s", domain.ErrUnknownKind, domain.Quote("dance\x1b")) })
		w.settle(time.Minute) // for the poll that is held
		w.host.set(func() { delete(w.host.refuse, "poll") })
		w.settle(time.Second)
		if n := len(w.host.times("poll")); n > 320 {
			w.Errorf("%d polls in a minute: unknown actions keep it busy", n)
		}
		if w.log.count(`dance\\x1b`) == 0 {
			w.Error("the unknown kind is not told")
		}
		w.offer(domain.ExecShell("shell", domain.ShellSpec{TTY: true}))
		w.same("told", 1, w.log.count("this version of guest-tools can't do this"))
		w.offer(domain.GetArtifact("1", "/file"))
		w.same("replies", []contract.Reply{{ID: "1", Content: []byte("content")}}, w.peer.Seen().Replies)
	})
}

// A host that was told to stop its polls answers each at once.
func TestPollsThatAreNotHeld(t *testing.T) {
	inBubble(t, func(w *world) { w.host.hold = 0 }, func(w *world) {
		w.settle(10 * time.Second)
		if n := len(w.host.times("poll")); n < 50 || n > 101 {
			w.Errorf("%d polls in 10 s, want one each %s", n, leastPoll)
		}
		w.host.set(func() { w.host.hold = time.Second })
		before := len(w.host.times("poll"))
		w.settle(10 * time.Second)
		if n := len(w.host.times("poll")) - before; n < 9 || n > 11 {
			w.Errorf("%d polls in 10 s that are held for 1 s each", n)
		}
	})
}

func TestPollsRefused(t *testing.T) {
	inBubble(t, func(w *world) { w.host.refuse["poll"] = &domain.Error{Code: domain.CodeForbidden} }, func(w *world) {
		w.settle(time.Minute)
		w.same("told", 1, w.log.count("the host refuses polls"))
		if n := len(w.host.times("poll")); n < 10 || n > 20 {
			w.Errorf("%d polls in a minute", n)
		}
	})
}

// The reply to a kill says that the tree is gone; the ancestor sent it before anything was dead.
func TestKillIsAnsweredWhenTheTreeIsGone(t *testing.T) {
	inBubble(t, func(w *world) { w.process.dies = 3 * time.Second }, func(w *world) {
		w.offer(domain.KillProcess("kill"))
		w.settle(2999 * time.Millisecond)
		w.same("replies before", 0, len(w.peer.Seen().Replies))
		w.settle(time.Millisecond)
		w.same("replies", []contract.Reply{{ID: "kill"}}, w.peer.Seen().Replies)
		w.same("kills", []time.Duration{KillGrace}, w.process.kills)
		w.same("reason", domain.ReasonKilled, w.peer.Seen().Results[0].Report.Reason)
	})
}

func TestKillAfterTheCommand(t *testing.T) {
	inBubble(t, asItIs, func(w *world) {
		w.finish(success)
		w.offer(domain.KillProcess("kill"))
		w.same("kills", 1, len(w.process.kills)) // of what it left behind
		w.same("replies", 1, len(w.peer.Seen().Replies))
		w.same("results", 1, len(w.peer.Seen().Results))
	})
}

func TestSurvivorsAreTold(t *testing.T) {
	inBubble(t, func(w *world) { w.process.survivors = []ports.Survivor{{PID: 42, Command: "stuck\x1b"}} }, func(w *world) {
		w.offer(domain.KillProcess("kill"))
		w.same("the task's log", "guest-tools: process 42 (\"stuck\\x1b\") could not be killed\n", w.peer.Seen().Log)
		w.same("told", 1, w.log.count("pid=42"))
		w.same("replies", 1, len(w.peer.Seen().Replies))
		w.process.survivors = nil
	})
}

func TestKillBeforeTheStart(t *testing.T) {
	inBubble(t, func(w *world) { w.host.away = errAway }, func(w *world) {
		if _, err := w.guest.task.kill(t.Context(), KillGrace); err != nil {
			w.Error(err)
		}
		w.host.goAway(nil)
		w.settle(time.Second)
		w.same("starts", 0, len(w.processes.starts()))
		w.same("reason", domain.ReasonKilled, w.peer.Seen().Results[0].Report.Reason)
		w.same("the log", "guest-tools: it was killed before it was started\n", w.peer.Seen().Log)
	})
}

func TestKillDuringTheStart(t *testing.T) {
	inBubble(t, func(w *world) { w.processes.slow = time.Second }, func(w *world) {
		w.offer(domain.KillProcess("kill"))
		w.same("replies", 0, len(w.peer.Seen().Replies))
		w.settle(time.Second)
		w.same("kills", 1, len(w.process.kills))
		w.same("replies", 1, len(w.peer.Seen().Replies))
	})
}

func TestReplyThatFails(t *testing.T) {
	inBubble(t, func(w *world) { w.host.refuse["reply"] = errAway }, func(w *world) {
		w.offer(domain.GetArtifact("1", "/file"))
		w.same("told", 1, w.log.count("an action failed"))
		w.settle(time.Minute)
		w.same("tries: the id is used up", 1, len(w.host.times("reply")))
		w.same("hellos: a connection broke", 2, len(w.peer.Seen().Hellos))
	})
}

func action(t *testing.T, id string, kill bool) domain.Action {
	t.Helper()
	a, err := domain.GetArtifact(domain.ActionID(id), "/file")
	if kill {
		a, err = domain.KillProcess(domain.ActionID(id))
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Many transfers at once are bounded, the oldest that waits is next, and no kill waits for them.
func TestCrewIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := make(chan domain.ActionID, 1000)
		release := make(chan struct{})
		c := newCrew(func(a domain.Action) {
			started <- a.ID()
			if a.Kind() != domain.KindKillProcess {
				<-release
			}
		})
		for i := range maxActions + 3 {
			if !c.take(action(t, fmt.Sprint(i), false)) {
				t.Fatal("an action was not taken")
			}
		}
		synctest.Wait()
		if len(started) != maxActions {
			t.Fatalf("%d run at once, want %d", len(started), maxActions)
		}
		for len(started) > 0 {
			<-started
		}
		c.take(action(t, "kill", true))
		if id := <-started; id != "kill" {
			t.Errorf("%s is next, want the kill", id)
		}
		for i := range 3 {
			release <- struct{}{}
			if id := <-started; id != domain.ActionID(fmt.Sprint(maxActions+i)) {
				t.Errorf("%s is next, want number %d, which has waited longest", id, maxActions+i)
			}
		}
		close(release)
		c.close()
		if c.take(action(t, "late", false)) {
			t.Error("an action was taken after the end")
		}
	})
}

func TestCrewHoldsABoundedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := newCrew(func(domain.Action) { <-release })
		taken := 0
		for i := range 2 * maxWaiting {
			if c.take(action(t, fmt.Sprint(i), false)) {
				taken++
			}
		}
		if taken != maxActions+maxWaiting {
			t.Errorf("%d actions were taken, want %d", taken, maxActions+maxWaiting)
		}
		go close(release)
		c.close()
		for i := range 2 * maxSeen { // ids are forgotten in their order
			c.remember(domain.ActionID(fmt.Sprint("more ", i)))
		}
		if len(c.seen) != maxSeen || len(c.order) != maxSeen || !c.seen[domain.ActionID(fmt.Sprint("more ", maxSeen))] {
			t.Errorf("%d ids are remembered", len(c.seen))
		}
	})
}
