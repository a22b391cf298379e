//go:build linux

package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmnet"
	"github.com/hexworker/metaservice/domain"
)

// knockerOf builds the program that knocks past the guest's kernel, and serves it to guests.
func knockerOf(t *testing.T) http.Handler {
	t.Helper()
	needVM(t)
	program := filepath.Join(t.TempDir(), "knocker")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./knocker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, program) })
}

// knocking is the script's part that fetches the program, and runs it with what follows.
const knocking = `
cd /tmp && wget -q -O knocker http://169.254.169.254/knocker/ && chmod +x knocker || exit 1
./knocker `

// doors is a port of every address of this host, of TCP and of UDP, which counts who comes, and greets.
type doors struct {
	port        uint16
	word        string // that those who come by UDP have
	stream      net.Listener
	packets     net.PacketConn
	calls, came atomic.Int64 // by TCP and by UDP
}

func openDoors(t *testing.T) *doors {
	t.Helper()
	d := &doors{word: fmt.Sprintf("knock-%x", rand.Uint64())}
	var err error
	for range 10 { // the port may be somebody's for UDP
		if d.stream, err = net.Listen("tcp", ":0"); err != nil {
			t.Fatal(err)
		}
		d.port = d.stream.Addr().(*net.TCPAddr).AddrPort().Port()
		if d.packets, err = net.ListenPacket("udp", fmt.Sprintf(":%d", d.port)); err == nil {
			break
		}
		d.stream.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.stream.Close(); d.packets.Close() })
	go func() {
		for {
			conn, err := d.stream.Accept()
			if err != nil {
				return
			}
			d.calls.Add(1)
			_, _ = io.WriteString(conn, "the host\n")
			conn.Close()
		}
	}()
	go func() {
		packet := make([]byte, 1<<16)
		for {
			n, _, err := d.packets.ReadFrom(packet)
			if err != nil {
				return
			}
			if strings.Contains(string(packet[:n]), d.word) {
				d.came.Add(1)
			}
		}
	}()
	return d
}

// none sees that nobody has come: what we send ourselves comes behind whatever else did.
func (d *doors) none(t *testing.T) {
	t.Helper()
	calls, came := d.calls.Load(), d.came.Load()
	here := fmt.Sprintf("127.0.0.1:%d", d.port)
	for _, network := range []string{"tcp4", "udp4"} {
		conn, err := net.Dial(network, here)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, d.word)
		defer conn.Close()
	}
	eventually(t, "the doors are shut", func() bool { return d.calls.Load() > calls && d.came.Load() > came })
	if calls, came := d.calls.Swap(0)-1, d.came.Swap(0)-1; calls+came != 0 {
		t.Errorf("%d connections and %d packets of guests came to the host", calls, came)
	}
}

// hostNames are all names of this host: those of its cards, and those that every host has.
func hostNames(t *testing.T) (names []string) {
	t.Helper()
	names = []string{
		"127.0.0.1", "127.1.2.3", "127.255.255.254", "0.0.0.0", "0.0.0.1", "169.254.169.254", "169.254.169.1", "169.254.169.3",
		"169.254.169.255", "169.254.0.1", "255.255.255.255", "224.0.0.1", "240.0.0.1", "::1", "::", "fe80::1", "ff02::1",
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || prefix.Addr().IsLoopback() {
			continue
		}
		names = append(names, prefix.Addr().String())
		if prefix.Addr().Is4() && prefix.Bits() < 31 {
			last := prefix.Addr().As4()
			binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])|1<<(32-prefix.Bits())-1)
			names = append(names, netip.AddrFrom4(last).String()) // its broadcast
		}
	}
	return names
}

// Two machines at once: neither reaches the other's service, this host, or a link-local address, whichever
// network they are on, through its kernel or past it: by TCP and UDP, as another sender, as another card, with VLAN
// tags, source routes, in tunnels and in fragments.
func TestTwoMachines(t *testing.T) {
	knocker, host := knockerOf(t), openDoors(t)
	names := hostNames(t)
	script := knocking + fmt.Sprintf("%s %d %s || exit 1\n", host.word, host.port, strings.Join(names, " ")) + `
ip route add default via 169.254.169.254 2>/dev/null
# What is this guest's own loopback becomes a way out.
sysctl -w net.ipv4.conf.all.route_localnet=1 >/dev/null
ip addr flush dev lo; ip route flush table local dev lo
ip route add 127.0.0.0/8 via 169.254.169.254 dev eth0
knock() { # address port word
	echo "$3" | nc -u -w 1 "$1" "$2" >/dev/null 2>&1
	if nc -w 2 "$1" "$2" </dev/null 2>/dev/null | grep -q .; then echo "reached $1"; else echo "nobody at $1"; fi
}
` + knockEach(names, host) + `
wait
wget -q -O - http://169.254.169.254/who/
`
	for name, nat := range map[string]bool{"isolated": false, "nat": true} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, newMachine(t, func(c *qemu.Config) { c.NAT = nat }), 2)
			names := []string{"the first", "the second"}
			outs := make([]*log, 2)
			var ends [2]func() domain.Outcome
			for i, name := range names {
				sandbox, out := begin(t, engine, script, map[string]http.Handler{
					"knocker": knocker,
					"who":     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) }),
				})
				outs[i], ends[i] = out, func() domain.Outcome { return finish(t, sandbox) }
			}
			for i, end := range ends {
				if outcome := end(); outcome.Status != domain.StatusSuccess {
					t.Errorf("%s: %s, %v", names[i], outcome.Status, outcome.Err)
				}
				said := outs[i].String()
				if strings.Contains(said, "reached") {
					t.Errorf("%s guest says %s", names[i], said)
				}
				if tried := strings.Count(said, "nobody at"); tried < 6 || !strings.HasPrefix(said, "knocked ") {
					t.Errorf("%s guest tried %d ways: %s", names[i], tried, said)
				}
				if !strings.HasSuffix(said, names[i]+"\n") {
					t.Errorf("%s guest's host is another: %s", names[i], said)
				}
			}
			dispose(t, engine) // and so nothing is on its way any more
			host.none(t)
		})
	}
}

// knockEach knocks at each name by the guest's own kernel, at all of them at once.
func knockEach(names []string, host *doors) string {
	var script strings.Builder
	for _, name := range names {
		if a := netip.MustParseAddr(name); a.Is4() && !a.IsMulticast() {
			fmt.Fprintf(&script, "knock %s %d %s &\n", name, host.port, host.word)
		}
	}
	return script.String()
}

// A guest that is let out reaches the world, by names, too. The world is of this test's making. It shows as well
// that whoever knocks past the guest's kernel does reach what isn't kept from it.
func TestNATFromInside(t *testing.T) {
	knocker, host := knockerOf(t), openDoors(t)
	place, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "this is", r.Host) })}
	go server.Serve(place)
	defer server.Close()
	resolver, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer resolver.Close()
	go answerNames(resolver)
	world := vmnet.NAT{
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			switch network + " " + address {
			case fmt.Sprintf("tcp 192.0.2.1:%d", host.port), fmt.Sprintf("udp 192.0.2.1:%d", host.port):
				address = fmt.Sprintf("127.0.0.1:%d", host.port)
			case "tcp 192.0.2.1:80":
				address = place.Addr().String()
			case "udp 192.0.2.53:53":
				address = resolver.LocalAddr().String()
			default:
				return nil, errors.New("nobody is there")
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	engine := newEngine(t, newMachine(t, func(c *qemu.Config) { c.NAT, c.World = true, world }), 1)
	defer dispose(t, engine)
	script := "wget -q -O - http://world.example/ && wget -q -O - http://192.0.2.1/; nc -w 5 192.0.2.2 80 </dev/null 2>/dev/null || echo none" +
		knocking + fmt.Sprintf("%s %d 192.0.2.1", host.word, host.port)
	sandbox, out := begin(t, engine, script, map[string]http.Handler{"knocker": knocker})
	outcome, said := finish(t, sandbox), out.String()
	if outcome.Status != domain.StatusSuccess || !strings.HasPrefix(said, "this is world.example\nthis is 192.0.2.1\nnone\nknocked ") {
		t.Errorf("%s, %v: %q", outcome.Status, outcome.Err, said)
	}
	// By UDP whole, and in fragments, beside frames to everybody's card.
	eventually(t, "whoever knocks isn't heard where it may be", func() bool { return host.calls.Load() > 0 && host.came.Load() > 2 })
}

// answerNames answers each question for an IPv4 address with 192.0.2.1.
func answerNames(conn net.PacketConn) {
	question := make([]byte, 512)
	for {
		n, from, err := conn.ReadFrom(question)
		if err != nil {
			return
		}
		if n < 17 {
			continue
		}
		answer := append([]byte(nil), question[:n]...)
		answer[2], answer[3] = 0x81, 0x80
		answer[8], answer[9], answer[10], answer[11] = 0, 0, 0, 0 // no records but answers
		if answer[n-3] == 1 {                                     // type A
			answer[7] = 1
			answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
		}
		_, _ = conn.WriteTo(answer, from)
	}
}

// Images that expect DHCP get their address so.
func TestDHCPFromInside(t *testing.T) {
	machine := newMachine(t, func(c *qemu.Config) { c.Image.Append += " metaservice.net=dhcp" })
	outcome, said := run(t, machine, "ip addr show eth0; udhcpc -i eth0 -f -q -n -t 5 -s /bin/true 2>&1")
	if outcome.Status != domain.StatusSuccess || !strings.Contains(said, "inet 169.254.169.2/24") ||
		!strings.Contains(said, "lease of 169.254.169.2 obtained from 169.254.169.254") {
		t.Errorf("%s, %v: %s", outcome.Status, outcome.Err, said)
	}
}

// answers is for scripts: whether an address answers, with a word in front of the command. A machine that is emulated
// beside others may take its time for a packet.
const answers = `
answers() {
	for try in 1 2 3 4; do
		$2 ping -c 1 -W 5 $1 >/dev/null && return
	done
	return 1
}
`

// Who has another address or another card than the guest is nobody for its host.
func TestOtherSendersInsideTheGuest(t *testing.T) {
	const script = answers + `
answers 169.254.169.254 && echo itself: answered
ip addr add 169.254.169.3/24 dev eth0
ping -c 1 -W 2 -I 169.254.169.3 169.254.169.254 >/dev/null && echo another address: answered || echo another address: silence
echo | nc -w 2 -s 169.254.169.3 169.254.169.254 80 2>/dev/null && echo another address: connected
ip addr del 169.254.169.3/24 dev eth0
ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:01; ip link set eth0 up
ping -c 1 -W 2 169.254.169.254 >/dev/null && echo another card: answered || echo another card: silence
ip link set eth0 down; ip link set eth0 address 5a:94:ef:e4:0c:ee; ip link set eth0 up
answers 169.254.169.254 && echo itself: answered
`
	outcome, said := run(t, newMachine(t), script)
	want := "itself: answered\nanother address: silence\nanother card: silence\nitself: answered\n"
	if outcome.Status != domain.StatusSuccess || said != want {
		t.Errorf("%s, %v: %s", outcome.Status, outcome.Err, said)
	}
}

// Whoever is behind the guest, and has its very address, gets no connection: answers end at the guest. That
// it is reached by what may go further shows that the way is there.
func TestPeerBehindTheGuest(t *testing.T) {
	needVM(t)
	if findVeth() == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("there is no module for virtual Ethernet: 'make image' fetches it")
		}
		t.Skip("there is no module for virtual Ethernet: 'make image' fetches it")
	}
	const script = answers + `
exec 2>&1
# The other end is given the first name that is free, which is veth0.
insmod /veth.ko
ip link add door type veth || exit 1
unshare -n sleep 1000 & peer=$!
while [ "$(readlink /proc/$peer/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link set veth0 netns $peer
ip link set door up
behind() { nsenter -n -t $peer "$@"; }
behind sh -c 'ip link set veth0 up; ip addr add 169.254.169.2/32 dev veth0; ip route add default dev veth0'
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv4/conf/door/proxy_arp
echo 0 >/proc/sys/net/ipv4/neigh/door/proxy_delay
arp -s 169.254.169.254 5a:94:ef:e4:0c:dd
ip addr del 169.254.169.2/24 dev eth0
ip route add 169.254.169.254/32 dev eth0
ip route add 169.254.169.2/32 dev door
answers 169.254.169.254 behind && echo ping: answered
behind nc -w 3 169.254.169.254 80 </dev/null && echo connected || echo no connection
ip route del 169.254.169.2/32 dev door
ip route del 169.254.169.254/32 dev eth0
ip addr add 169.254.169.2/24 dev eth0
nc -w 30 169.254.169.254 80 </dev/null && echo itself: connected
kill $peer
`
	outcome, said := run(t, newMachine(t), script)
	want := "ping: answered\nnc: timed out\nno connection\nitself: connected\n"
	if outcome.Status != domain.StatusSuccess || said != want {
		t.Errorf("%s, %v: %s", outcome.Status, outcome.Err, said)
	}
}

// A guest that can't bring its network up is gone in seconds, and its last words are in the error.
func TestFaultAtBoot(t *testing.T) {
	for option, want := range map[string]string{
		"metaservice.net=bootp":         "it must be static or dhcp",
		"metaservice.gateway=192.0.2.1": "192.0.2.1 can't be the gateway",
	} {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			machine := newMachine(t, func(c *qemu.Config) { c.Image.Append += " " + option })
			if outcome, _ := run(t, machine, "true"); outcome.Status != domain.StatusMachineDied || !strings.Contains(fmt.Sprint(outcome.Err), want) {
				t.Errorf("%s, %v", outcome.Status, outcome.Err)
			}
		})
	}
}
