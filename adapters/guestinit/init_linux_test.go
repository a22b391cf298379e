package guestinit

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a namespace's init is killed by when it calls reboot(2): see reboot(2) itself.
const (
	poweredOff = syscall.SIGINT
	rebooted   = syscall.SIGHUP
)

func TestGuestToolsFindWhatATaskNeeds(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{
		acts: "look exit",
		line: "quiet metaservice.address=10.11.12.13/24 metaservice.gateway=10.11.12.1 metaservice.dns=10.11.12.1,10.11.12.2\n",
	})
	if got := g.end(); got != poweredOff {
		t.Errorf("the machine ended with %v", got)
	}
	for _, want := range []string{
		"parent 1, host guest, folder /root, PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
		"/sys mounted: true\n", "/dev/pts mounted: true\n", "/dev/shm mounted: true\n", "/run mounted: true\n", "/tmp mounted: true\n",
		"/sys/fs/cgroup mounted: true\n", "lo: true\n", "gateway: 10.11.12.1\n", "/dev/fd: /proc/self/fd\n", "arguments: [run]\n",
		`servers: "nameserver 10.11.12.1\nnameserver 10.11.12.2\n"`, "address: 10.11.12.13/24 eth",
		"init: guest-tools ended: exit status 3\n",
	} {
		if said := g.said(); !strings.Contains(said, want) {
			t.Errorf("the console hasn't %q, but\n%s", want, said)
		}
	}
}

func TestTheAddressIsTheOneThatTheHostExpects(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "look exit"})
	g.end()
	said := g.said()
	if !strings.Contains(said, "address: 169.254.169.2/24 eth") || strings.Contains(said, "gateway:") || !strings.Contains(said, `servers: ""`) {
		t.Errorf("without a word on the command line the network is\n%s", said)
	}
}

func TestTheAddressMayBeOneOfIPv6(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "look exit", line: "metaservice.address=2001:db8::2/64 metaservice.gateway=2001:db8::1\n"})
	g.end()
	if said := g.said(); !strings.Contains(said, "address: 2001:db8::2/64") || !strings.Contains(said, "gateway: 2001:db8::1\n") {
		t.Errorf("the network is\n%s", said)
	}
}

func TestOrphansAreReapedAndOwnChildrenAreNot(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "orphan exit"})
	g.end()
	if said := g.said(); !strings.Contains(said, "all orphans reaped") || strings.Contains(said, "an own child") {
		t.Errorf("the console has\n%s", said)
	}
}

func TestTheMachineEndsWithGuestTools(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "crash"})
	if got := g.end(); got != poweredOff {
		t.Errorf("the machine ended with %v", got)
	}
	if said := g.said(); !strings.Contains(said, "init: guest-tools ended: signal: killed\n") {
		t.Errorf("the console has\n%s", said)
	}
}

func TestSignalsEndTheMachineInOrder(t *testing.T) {
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		want   syscall.Signal
	}{
		{"halt of busybox", syscall.SIGUSR1, poweredOff},
		{"poweroff of busybox", syscall.SIGUSR2, poweredOff},
		{"a power failure", syscall.SIGPWR, poweredOff},
		{"halt of systemd", 37, poweredOff},
		{"poweroff of systemd", 38, poweredOff},
		{"reboot of busybox", syscall.SIGTERM, rebooted},
		{"Ctrl-Alt-Del", syscall.SIGINT, rebooted},
		{"reboot of systemd", 39, rebooted},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := boot(t, setup{acts: "wait"})
			g.await("ready")
			if err := g.cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			if got := g.end(); got != test.want {
				t.Errorf("the machine ended with %v, want %v", got, test.want)
			}
			if said := g.said(); !strings.Contains(said, "asked: terminated\n") {
				t.Errorf("guest-tools weren't asked to end:\n%s", said)
			}
		})
	}
}

func TestSignalsThatMeanNothingDontEndTheMachine(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "wait"})
	g.await("ready")
	for _, s := range meaningless {
		if err := g.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if got := g.end(); got != poweredOff {
		t.Errorf("the machine ended with %v", got)
	}
	if said := g.said(); !strings.Contains(said, "asked: terminated\n") {
		t.Errorf("guest-tools weren't asked to end:\n%s", said)
	}
}

func TestGuestToolsThatStayDontKeepTheMachine(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "stay"})
	g.await("ready")
	start := time.Now()
	if err := g.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if got := g.end(); got != poweredOff {
		t.Errorf("the machine ended with %v", got)
	}
	if took := time.Since(start); took < childPatience {
		t.Errorf("guest-tools had only %v", took)
	}
}

func TestWhatIsLeftBehindIsAskedAndThenKilled(t *testing.T) {
	t.Parallel()
	start := time.Now()
	g := boot(t, setup{acts: "stubborn exit"})
	if got := g.end(); got != poweredOff {
		t.Errorf("the machine ended with %v", got)
	}
	if said := g.said(); !strings.Contains(said, "left behind: <nil>") || time.Since(start) < killPatience {
		t.Errorf("after %v the console has\n%s", time.Since(start), said)
	}
}

func TestABadCommandLineIsTheLastThingOnTheConsole(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "look exit", line: "metaservice.net=bootp\n"})
	if got := g.end(); got != poweredOff {
		t.Errorf("the machine ended with %v", got)
	}
	if said := g.said(); !strings.HasSuffix(said, "it must be static or dhcp\n") || strings.Contains(said, "parent") {
		t.Errorf("the console has\n%s", said)
	}
}

func TestDHCPWithoutAServerEndsTheMachine(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "look exit", line: "metaservice.net=dhcp\n"})
	if got := g.end(); got != poweredOff {
		t.Errorf("the machine ended with %v", got)
	}
	if said := g.said(); !strings.Contains(said, "init: no address by DHCP: ") || strings.Contains(said, "parent") {
		t.Errorf("the console has\n%s", said)
	}
}

func TestAModuleThatCantBeLoadedIsTold(t *testing.T) {
	t.Parallel()
	g := boot(t, setup{acts: "exit", modules: "/lib/modules/none.ko\n"})
	g.end()
	if said := g.said(); !strings.Contains(said, "init: module /lib/modules/none.ko can't be loaded: open ") ||
		!strings.Contains(said, "exit status 3") {
		t.Errorf("the console has\n%s", said)
	}
}
