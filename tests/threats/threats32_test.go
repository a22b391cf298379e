//go:build linux

package threats

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

func init() {
	register("reboots in the midst of a task", rebootInMidTask)
	register("a snapshot of another time", snapshotOfAnotherTime)
}

// rebootInMidTask is a guest that goes down twice before its task has a result, and once after it: with a poll
// that hangs, and with an action that it has taken.
func rebootInMidTask(r *raid) error {
	expect := func(what, request string, want int) (answer, error) {
		a, err := r.ask([]byte(request))
		if err == nil && a.status != want {
			err = fmt.Errorf("%s got %d %s, and not %d", what, a.status, a.body, want)
		}
		return a, err
	}
	execute := bare(http.MethodGet, wire.PathExecute)
	if err := r.hello("1"); err != nil {
		return err
	}
	if _, err := expect("an execute", execute, http.StatusOK); err != nil {
		return err
	}
	parked, err := r.dial()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(parked, bare(http.MethodGet, wire.PathPoll)); err != nil {
		return err
	}
	if _, err := expect("a ping", bare(http.MethodGet, wire.PathPing), http.StatusOK); err != nil {
		return err
	}
	if err := parked.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	parked.Close()
	r.say("its poll is dead")

	if err := r.hello("2"); err != nil {
		return err
	}
	first, err := r.poll() // the action that the dead poll must not have had
	if err != nil {
		return err
	}
	begun := time.Now()

	if err := r.hello("3"); err != nil { // and nobody is left who knows of the action
		return err
	}
	if _, err := expect("an execute again", execute, http.StatusOK); err != nil {
		return err
	}
	second, err := r.poll()
	if err != nil {
		return err
	}
	r.took("redelivery", time.Since(begun))
	if second.ID != first.ID {
		return fmt.Errorf("the action that was taken came again under another id")
	}
	if err := r.hello("5"); err != nil { // who goes on saying so isn't asked again and again
		return err
	}
	again, err := expect("a poll of one boot too many", bare(http.MethodGet, wire.PathPoll), http.StatusOK)
	if err != nil {
		return err
	}
	r.text("another poll", string(again.body))
	if _, err := expect("a reply", reply(second.ID)+sized(4)+"mine", http.StatusOK); err != nil {
		return err
	}
	if _, err := expect("a reply again", reply(second.ID)+sized(4)+"mine", http.StatusBadRequest); err != nil {
		return err
	}
	a, err := expect("a poll", bare(http.MethodGet, wire.PathPoll), http.StatusOK)
	if err != nil {
		return err
	}
	r.text("the last poll", string(a.body))
	if _, err := expect("a result", bare(http.MethodPut, wire.PathSuccess), http.StatusOK); err != nil {
		return err
	}
	if err := r.hello("4"); err != nil {
		return err
	}
	_, err = expect("an execute of a task that has its result", execute, http.StatusConflict)
	return err
}

// snapshotOfAnotherTime is a guest that was saved with the token of one host, which its new host never gave it.
func snapshotOfAnotherTime(r *raid) error {
	own := r.Address
	r.Address = r.Args["before"]
	old, status, err := r.takeToken("")
	r.Address = own
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("its first host gave it %d, %w", status, err)
	}
	current, status, err := r.takeToken("")
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("the tools got %d, %w", status, err)
	}
	for name, token := range map[string]string{"stale": old, "current": current} {
		a, err := r.ask([]byte(withHeader(bare(http.MethodGet, wire.PathPing), shown(token))))
		if err != nil {
			return err
		}
		r.count(name, int64(a.status))
	}
	return nil
}

// Threat 32. A guest that goes down loses what it was asked, and what it knew: what it was asked comes again
// at once, under its id, which is good once; a task that has its result isn't run again; a token of another
// host is none.
func TestThreat32RebootInMidTask(t *testing.T) {
	t.Parallel()
	h := startHost(t, HostSpec{Limits: metaservice.Limits{Hold: time.Second / 5, Tries: 1}})
	a := attack(t, h, "reboots in the midst of a task", nil)
	a.hears(t, "its poll is dead")
	artifact := h.artifact(t, "/file")
	tally := a.wait(t)
	if got := within(t, time.Minute, "the caller", artifact); string(got.Begin) != "mine" {
		t.Errorf("the caller got %q, %q", got.Begin, got.Text)
	}
	if took := tally.Times["redelivery"]; took > slack {
		t.Errorf("the action came again after %s", took)
	}
	for _, which := range []string{"another poll", "the last poll"} {
		if poll := tally.Texts[which]; poll != string(nothingToDo) {
			t.Errorf("%s got %s", which, poll)
		}
	}
	var ended Ended
	h.call(t, "Outcome", Ask{Within: time.Minute}, &ended)
	if !ended.Succeeded {
		t.Errorf("the outcome is %+v", ended)
	}

	t.Run("a snapshot", func(t *testing.T) {
		before := h.add(t, AddGuest{Token: metaservice.TokenRequired})
		after := h.add(t, AddGuest{Token: metaservice.TokenRequired})
		tally := attackGuest(t, h, after, "a snapshot of another time", map[string]string{"before": h.guests[before]}).wait(t)
		if tally.Counts["stale"] != http.StatusUnauthorized || tally.Counts["current"] != http.StatusOK {
			t.Errorf("the stale token got %d, the current one %d", tally.Counts["stale"], tally.Counts["current"])
		}
	})
}

// nothingToDo is what a poll gets where there is none.
var nothingToDo = wire.EncodeAction(domain.Action{})
