//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmnet"
	"github.com/hexworker/metaservice/domain"
)

// knock makes every way from the guest to an address that root in it can make, and says "reached" and the
// address where somebody answers.
const knock = `
ip route add default via 169.254.169.254 2>/dev/null
knock() { # address port
	if nc -w 2 "$1" "$2" </dev/null 2>/dev/null | grep -q .; then echo "reached $1"; else echo "nobody at $1"; fi
}
`

// doors are listeners on every address of this host, which greet whoever comes.
func doors(t *testing.T) (port uint16, addresses []netip.Addr) {
	t.Helper()
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "the host\n")
			conn.Close()
		}
	}()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is4() {
			addresses = append(addresses, prefix.Addr())
		}
	}
	return listener.Addr().(*net.TCPAddr).AddrPort().Port(), addresses
}

// Two machines at once: neither reaches the other's service, this host, or a link-local address, whichever
// network they are on.
func TestTwoMachines(t *testing.T) {
	port, own := doors(t)
	knocks := knock
	for _, a := range own {
		if !a.IsLoopback() {
			knocks += fmt.Sprintf("knock %s %d\n", a, port)
		}
	}
	knocks += fmt.Sprintf(`
for a in 169.254.169.254 169.254.169.1 169.254.169.3 169.254.0.1 0.0.0.0; do knock $a %d; done
# What is this guest's own loopback becomes a way out.
sysctl -w net.ipv4.conf.all.route_localnet=1 >/dev/null
ip addr flush dev lo; ip route flush table local dev lo
ip route add 127.0.0.0/8 via 169.254.169.254 dev eth0
knock 127.0.0.1 %d
wget -q -O - http://169.254.169.254/who/
`, port, port)
	for name, nat := range map[string]bool{"isolated": false, "nat": true} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, newMachine(t, func(c *qemu.Config) { c.NAT = nat }), 2)
			defer dispose(t, engine)
			names := []string{"the first", "the second"}
			outs := make([]*log, 2)
			var ends [2]func() domain.Outcome
			for i, name := range names {
				sandbox, out := begin(t, engine, knocks, map[string]http.Handler{
					"who": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) }),
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
				if got := strings.Count(said, "nobody at"); got < 6 {
					t.Errorf("%s guest tried %d ways: %s", names[i], got, said)
				}
				if !strings.HasSuffix(said, names[i]+"\n") {
					t.Errorf("%s guest's host is another: %s", names[i], said)
				}
			}
		})
	}
}

// A guest that is let out reaches the world, by names, too. The world is of this test's making.
func TestNATFromInside(t *testing.T) {
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
	machine := newMachine(t, func(c *qemu.Config) { c.NAT, c.World = true, world })
	outcome, said := run(t, machine, "wget -q -O - http://world.example/ && wget -q -O - http://192.0.2.1/; nc -w 5 192.0.2.2 80 </dev/null 2>/dev/null || echo none")
	if outcome.Status != domain.StatusSuccess || said != "this is world.example\nthis is 192.0.2.1\nnone\n" {
		t.Errorf("%s, %v: %q", outcome.Status, outcome.Err, said)
	}
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

// Who has another address or another card than the guest is nobody for its host.
func TestOtherSendersInsideTheGuest(t *testing.T) {
	const script = `
ping -c 1 -W 5 169.254.169.254 >/dev/null && echo itself: answered
ip addr add 169.254.169.3/24 dev eth0
ping -c 1 -W 2 -I 169.254.169.3 169.254.169.254 >/dev/null && echo another address: answered || echo another address: silence
echo | nc -w 2 -s 169.254.169.3 169.254.169.254 80 2>/dev/null && echo another address: connected
ip addr del 169.254.169.3/24 dev eth0
ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:01; ip link set eth0 up
ping -c 1 -W 2 169.254.169.254 >/dev/null && echo another card: answered || echo another card: silence
ip link set eth0 down; ip link set eth0 address 5a:94:ef:e4:0c:ee; ip link set eth0 up
ping -c 1 -W 5 169.254.169.254 >/dev/null && echo itself: answered
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
	const script = `
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
behind ping -c 1 -W 5 169.254.169.254 >/dev/null && echo ping: answered
behind nc -w 3 169.254.169.254 80 </dev/null && echo connected || echo no connection
ip route del 169.254.169.2/32 dev door
ip route del 169.254.169.254/32 dev eth0
ip addr add 169.254.169.2/24 dev eth0
nc -w 3 169.254.169.254 80 </dev/null && echo itself: connected
kill $peer
`
	outcome, said := run(t, newMachine(t), script)
	want := "ping: answered\nnc: timed out\nno connection\nitself: connected\n"
	if outcome.Status != domain.StatusSuccess || said != want {
		t.Errorf("%s, %v: %s", outcome.Status, outcome.Err, said)
	}
}
