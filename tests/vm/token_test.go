//go:build linux

package vm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

const tokenFile = "/sys/firmware/qemu_fw_cfg/by_name/" + qemu.TokenName + "/raw"

// asker defines ask METHOD PATH, which prints the request, its answer's status, and whether it
// tells of a task.
const asker = `ask() {
	{ printf '%s %s HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$2"; sleep 2; } |
		nc 169.254.169.254 80 | tr -d '\r' >/tmp/answer.$$.$3
	echo "$1 $2: $(sed -n '1s/^[^ ]* \([0-9]*\).*/\1/p' /tmp/answer.$$.$3) $(grep -o -e SECRET -e '"type"' /tmp/answer.$$.$3)"
}
`

// requests are one for each endpoint and method.
var requests = []string{
	"GET " + wire.PathExecute, "POST " + wire.PathLog, "PUT " + wire.PathSuccess, "PUT " + wire.PathFailed, "GET " + wire.PathPoll,
	"POST " + wire.PathReply + "?id=x", "GET " + wire.PathReply + "?id=x", "GET " + wire.PathPing, "POST " + wire.PathHello,
}

// handOut is how guest-tools ask a host for a token that no machine hands over: this one has none for them.
const handOut = "POST " + wire.PathToken

// The firmware has the token for the guest's root, and the host serves nobody who doesn't show it: another
// user in the guest neither reads the task's secrets nor resolves it.
func TestTokenIsForRoot(t *testing.T) {
	t.Parallel()
	engine := newEngine(t, newMachine(t, ownImage(t)), 1)
	defer dispose(t, engine)
	var asks strings.Builder
	for i, request := range requests {
		fmt.Fprintf(&asks, "ask %s %d & ", request, i)
	}
	fmt.Fprintf(&asks, "ask %s x & ", handOut)
	script := `f=` + tokenFile + `
wc -c <$f; stat -c '%a %U' $f
cat >/tmp/ask <<'END'
id -u; cat ` + tokenFile + ` 2>&1 | grep -o denied
` + asker + asks.String() + `wait
END
su -s /bin/sh nobody -c 'sh /tmp/ask' | sort
`
	sandbox, log := begin(t, engine, script, nil)
	if outcome := finish(t, sandbox); outcome.Status != domain.StatusSuccess {
		t.Errorf("%s, %v", outcome.Status, outcome.Err)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	want := []string{"43", "400 root"}
	for _, request := range requests {
		want = append(want, request+": 401 ")
	}
	want = append(want, handOut+": 404 ", "65534", "denied")
	for _, line := range want {
		if n := strings.Count("\n"+strings.Join(lines, "\n")+"\n", "\n"+line+"\n"); n != 1 {
			t.Errorf("%q is said %d times", line, n)
		}
	}
	if len(lines) != len(want) || t.Failed() {
		t.Errorf("the guest says\n%s", log)
	}
}

// oldInit is a guest of old: it knows version 1 of the protocol and nothing of a token.
const oldInit = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in $(cat /lib/metaservice/modules); do insmod $m; done
ip link set eth0 mtu 1500 up; ip addr add 169.254.169.2/24 dev eth0
` + asker + `
host=http://169.254.169.254
until wget -q -O /tmp/task $host` + wire.PathExecute + `; do sleep 0.2; done
wget -q -O - --post-data "an old guest has $(grep -o SECRET /tmp/task)" $host` + wire.PathLog + `
ask PUT ` + wire.PathSuccess + `
sleep 1000
`

// Images that were made years ago work as before.
func TestOldGuest(t *testing.T) {
	t.Parallel()
	engine := newEngine(t, newMachine(t, imageWith(t, oldInit)), 1)
	defer dispose(t, engine)
	sandbox, log := begin(t, engine, "echo SECRET", nil)
	if outcome := finish(t, sandbox); outcome.Status != domain.StatusSuccess || log.String() != "an old guest has SECRET" {
		t.Errorf("%s, %v: %q", outcome.Status, outcome.Err, log)
	}
}
