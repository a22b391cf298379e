//go:build linux

package threats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/listenmachine"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

func init() {
	register("another guest", anotherGuest)
	register("another user", anotherUser)
}

// anotherGuest asks at its own address, which is that of guest B, for all that is guest A's. It even knows the id
// of what A was asked, which A's tools, which play along, tell it. At the end A's tools answer.
func anotherGuest(r *raid) error {
	own, others := r.Address, r.Args["a"]
	r.Address = others
	action, err := r.poll()
	if err != nil {
		return err
	}
	r.Address = own
	const secret = "what A was asked for"
	forged := func(request string) string { // said to be for A, in all the ways that HTTP has for it
		return strings.Replace(request, "Host: 169.254.169.254", "Host: "+others, 1)
	}
	replied := reply(action.ID) + "X-Taskcluster-Worker-Error: file-not-found\r\n" + sized(0)
	requests := map[string]string{
		"an execute":        bare(http.MethodGet, wire.PathExecute),
		"a poll":            bare(http.MethodGet, wire.PathPoll),
		"a poll of A":       bare(http.MethodGet, "http://"+others+wire.PathPoll),
		"a reply":           replied,
		"a reply of A":      forged(replied),
		"a shell":           upgrade(action.ID),
		"a shell of A":      forged(upgrade(action.ID)),
		"a log":             "POST " + wire.PathLog + " HTTP/1.1\r\nHost: " + others + "\r\n" + sized(4) + "of B",
		"a result":          forged(bare(http.MethodPut, wire.PathFailed)),
		"a reply elsewhere": strings.Replace(replied, wire.PathReply, "http://"+others+wire.PathReply, 1),
	}
	for _, name := range slices.Sorted(maps.Keys(requests)) { // the log before the result, after which there is none
		a, err := r.ask([]byte(requests[name]))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if strings.Contains(string(a.body), secret) || strings.Contains(string(a.body), action.ID) {
			r.text(name, string(a.body))
		}
		r.count(name, int64(a.status))
		r.count("asked", 1)
	}
	r.Address = others
	a, err := r.ask([]byte(reply(action.ID) + sized(4) + "mine"))
	r.count("A's own reply", int64(a.status))
	return err
}

// anotherUser dials as whoever started it, and then as nobody.
func anotherUser(r *raid) error {
	ping := func() (int, error) {
		a, err := r.ask([]byte(bare(http.MethodGet, wire.PathPing)))
		return a.status, err
	}
	status, err := ping()
	if err != nil {
		return err
	}
	r.count("owner", int64(status))
	if err := syscall.Setuid(65534); err != nil {
		return err
	}
	_, err = ping()
	r.text("nobody", fmt.Sprint(err))
	if errors.Is(err, syscall.EACCES) {
		r.count("refused", 1)
	}
	return nil
}

// ListenAt has a guest's service listened for at an address, too, by the machine that boots nothing.
func (h *Host) ListenAt(address string, _ *struct{}) error {
	machine, err := listenmachine.New(listenmachine.Config{Address: address,
		Serve: func(ctx context.Context, listener net.Listener, _ http.Handler) error {
			return h.services[0].Serve(ctx, listener)
		}})
	if err != nil {
		return err
	}
	guest, err := machine.Boot(h.life, ports.BootOptions{Handler: h.services[0]})
	if err != nil {
		return err
	}
	h.running.Go(func() {
		<-h.life.Done()
		guest.Stop(context.Background())
	})
	return nil
}

// Threat 28. What another guest asks, at its own address, never gets to a guest, nor gets anything of it, be it
// with that one's ids; and who isn't the owner of a host's socket can't dial it. That no guest reaches another
// one's address is shown by TestTwoMachines, in real machines.
func TestThreat28OtherGuests(t *testing.T) {
	t.Parallel()
	h := startHost(t, HostSpec{Guests: 2, Limits: metaservice.Limits{Hold: time.Second / 10, Tries: 1}})
	artifact := begin[Got](t, h, "Artifact", Ask{Guest: 0, Path: "/what A was asked for"})
	a := attackGuest(t, h, 1, "another guest", map[string]string{"a": h.guests[0]})
	tally := a.wait(t)
	if tally.Counts["asked"] != 10 {
		t.Errorf("it asked %d times", tally.Counts["asked"])
	}
	for name, text := range tally.Texts {
		t.Errorf("%s got %q", name, text)
	}
	for _, name := range []string{"a reply", "a reply of A", "a reply elsewhere", "a shell", "a shell of A"} {
		if got := tally.Counts[name]; got != http.StatusBadRequest {
			t.Errorf("%s of guest B got %d", name, got)
		}
	}
	if got := within(t, time.Minute, "the caller", artifact); string(got.Begin) != "mine" || tally.Counts["A's own reply"] != http.StatusOK {
		t.Errorf("A's own reply got %d, its caller %q, %q", tally.Counts["A's own reply"], got.Begin, got.Text)
	}
	var ended Ended
	h.call(t, "Outcome", Ask{Guest: 1, Within: time.Minute}, &ended)
	if ended.Status != domain.StatusFailed.String() || ended.Bytes != 4 {
		t.Errorf("guest B's outcome is %+v", ended)
	}
	ended = Ended{}
	h.call(t, "Outcome", Ask{Guest: 0, Within: time.Millisecond}, &ended)
	if !strings.Contains(ended.Text, context.DeadlineExceeded.Error()) {
		t.Errorf("guest A's outcome is %+v", ended)
	}
	if log, err := os.ReadFile(h.folder + "/log0"); err != nil || len(log) > 0 {
		t.Errorf("guest A's log is %q, %v", log, err)
	}

	t.Run("another user", func(t *testing.T) {
		needRoot(t)
		h := startHost(t, HostSpec{Network: "unix"})
		if err := os.Chmod(h.folder, 0o755); err != nil { // the socket is on its own
			t.Fatal(err)
		}
		socket := h.folder + "/host.sock"
		h.call(t, "ListenAt", "unix:"+socket, new(struct{}))
		h.guests[0] = socket
		tally := attack(t, h, "another user", nil).wait(t)
		if tally.Counts["owner"] != http.StatusOK || tally.Counts["refused"] != 1 {
			t.Errorf("the owner got %d, and nobody %s", tally.Counts["owner"], tally.Texts["nobody"])
		}
	})
}

// needRoot skips what only root can set up. CI is root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("CI is not root")
	}
	t.Skip("only root can do that")
}
