package guestinit

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// resolvFile says who looks names up.
const resolvFile = "/etc/resolv.conf"

// linkPatience is how long the network's device may take to appear once its driver is loaded.
const linkPatience = 10 * time.Second

// setUpNetwork brings up lo and the one network device that a guest has.
func setUpNetwork(o options) error {
	if lo, err := net.InterfaceByName("lo"); err != nil {
		say("no lo: %v", err)
	} else if err := setUp(*lo); err != nil {
		say("lo can't be brought up: %v", err)
	}
	link, err := awaitLink(linkPatience)
	if err != nil {
		return err
	}
	if err := setUp(link); err != nil {
		return fmt.Errorf("%s can't be brought up: %w", link.Name, err)
	}
	if o.dhcp {
		if hasAddress(link) {
			return nil // the initramfs has asked already
		}
		return askDHCP(link.Name)
	}
	if err := configure(link, o); err != nil {
		return err
	}
	if len(o.dns) == 0 {
		return nil
	}
	if err := os.WriteFile(resolvFile, []byte(resolvConf(o.dns)), 0o644); err != nil {
		say("no names can be looked up: %v", err)
	}
	return nil
}

// awaitLink waits for the network's device.
func awaitLink(patience time.Duration) (net.Interface, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		links, err := net.Interfaces()
		if err != nil {
			return net.Interface{}, fmt.Errorf("network devices can't be listed: %w", err)
		}
		card, other := pick(links, hasHardware, isPair)
		if card.Index != 0 {
			return card, nil
		}
		if time.Now().Before(deadline) {
			continue
		}
		if other.Index != 0 {
			return other, nil
		}
		return net.Interface{}, fmt.Errorf("there was no network device in %v: its driver may be missing in the image", patience)
	}
}

// pick picks the network's device: the first with hardware behind it, or one end of a pair, which is what a
// container has in its place. Drivers make others by themselves, such as for tunnels, which lead nowhere: the first
// of them is for want of anything better. The zero device is none.
func pick(links []net.Interface, hardware, pair func(name string) bool) (card, other net.Interface) {
	for _, link := range links {
		switch {
		case link.Flags&net.FlagLoopback != 0:
		case hardware(link.Name):
			return link, net.Interface{}
		case card.Index == 0 && pair(link.Name):
			card = link
		case other.Index == 0:
			other = link
		}
	}
	return card, other
}

// hasHardware tells whether a device is a card, if perhaps a virtual machine's.
func hasHardware(name string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", name, "device"))
	return err == nil
}

// isPair tells whether a device is one end of a pair of virtual ones.
func isPair(name string) bool {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(socket)
	driver, err := unix.IoctlGetEthtoolDrvinfo(socket, name)
	return err == nil && unix.ByteSliceToString(driver.Driver[:]) == "veth"
}

// hasAddress tells whether a device has an IPv4 address.
func hasAddress(link net.Interface) bool {
	addresses, _ := link.Addrs()
	return slices.ContainsFunc(addresses, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Is4()
	})
}

// configure gives a link its address, and the way out.
func configure(link net.Interface, o options) error {
	if err := setAddress(link, o.address); err != nil {
		return fmt.Errorf("%s can't have the address %s: %w", link.Name, o.address, err)
	}
	if o.gateway == (netip.Addr{}) {
		return nil
	}
	if err := setGateway(link, o.gateway); err != nil {
		return fmt.Errorf("%s can't be the gateway: %w", o.gateway, err)
	}
	return nil
}

// leaseScript is what udhcpc calls with what it learnt.
const leaseScript = `#!/bin/sh
case "$1" in
deconfig)
	ip addr flush dev "$interface"
	ip link set "$interface" up
	;;
bound|renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/$mask" dev "$interface" || exit 1
	for gateway in $router; do
		ip route add default via "$gateway" dev "$interface"
		break
	done
	: >/etc/resolv.conf
	for server in $dns; do
		echo "nameserver $server" >>/etc/resolv.conf
	done
	;;
esac
`

// scriptFile is where the script of the lease is written.
const scriptFile = "/run/udhcpc.script"

// askDHCP has busybox's client ask for an address. The network has one guest, and a lease is no shorter
// than a task: it is asked for once, and kept.
func askDHCP(device string) error {
	client, err := findUDHCPC()
	if err != nil {
		return err
	}
	if err := os.WriteFile(scriptFile, []byte(leaseScript), 0o755); err != nil {
		return err
	}
	// In the foreground, until there is a lease, or 10 questions, one a second, went without answer.
	args := append(client, "-f", "-q", "-n", "-t", "10", "-T", "1", "-i", device, "-s", scriptFile)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = environment
	if told, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("no address by DHCP: %w: %s", err, told)
	}
	return nil
}

func findUDHCPC() ([]string, error) {
	for _, client := range [][]string{{"/sbin/udhcpc"}, {"/usr/sbin/udhcpc"}, {"/bin/busybox", "udhcpc"}, {"/usr/bin/busybox", "udhcpc"}} {
		if _, err := os.Stat(client[0]); err == nil {
			return client, nil
		}
	}
	return nil, errors.New("no address by DHCP: there is no udhcpc in the image, and no busybox")
}
