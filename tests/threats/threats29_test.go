//go:build linux

package threats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/listenmachine"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/ports"
)

func init() {
	register("a host at a tap", hostAtTap)
	register("a guest that routes", guestThatRoutes)
	register("a container in the guest", containerInGuest)
}

// The addresses: the host and its guest are on a link of their own, as with a tap, and a container is behind
// the guest, which routes for it.
const (
	hostOnLink    = "169.254.169.254"
	guestOnLink   = "169.254.169.2"
	guestInside   = "192.0.2.1"
	containerSide = "192.0.2.2"

	oneHop   = ":80"   // what listenmachine does by itself
	manyHops = ":8080" // the control: the same, with more hops
)

// apart takes this goroutine's thread to a network of its own, for good: it goes with the process, whatever
// becomes of that, and has no name that anybody could leave behind.
func apart() (thread int, err error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return 0, fmt.Errorf("a network of its own: %w", err)
	}
	return unix.Gettid(), nil
}

// addressed gives a link that is there, or will be in a moment, an address, and has it up.
func addressed(ctx context.Context, name, address string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		link, err := netlink.LinkByName(name)
		if err == nil {
			addr, err := netlink.ParseAddr(address)
			if err == nil {
				err = netlink.AddrAdd(link, addr)
			}
			return errors.Join(err, netlink.LinkSetUp(link))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// routed reaches a network by way of a neighbour.
func routed(to, by string) error {
	network, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: network, Gw: net.ParseIP(by)})
}

// inside begins the part of somebody with a link eth0 that the guest makes.
func inside(r *raid, address, to, by string) error {
	thread, err := apart()
	if err != nil {
		return err
	}
	r.say(strconv.Itoa(thread))
	if err := addressed(r.ctx, "eth0", address); err != nil {
		return err
	}
	return routed(to, by)
}

// hostAtTap listens at a link-local address.
func hostAtTap(r *raid) error {
	if err := inside(r, hostOnLink+"/24", "192.0.2.0/24", guestOnLink); err != nil {
		return err
	}
	service := metaservice.New([]string{"true"}, nil, nil, nil, nil)
	defer service.Close()
	for port, hops := range map[string]int{oneHop: 0, manyHops: 64} {
		machine, err := listenmachine.New(listenmachine.Config{Address: hostOnLink + port, Hops: hops,
			Serve: func(ctx context.Context, listener net.Listener, handler http.Handler) error {
				return httpserver.Serve(ctx, listener, handler, slog.New(slog.DiscardHandler))
			}})
		if err != nil {
			return err
		}
		guest, err := machine.Boot(r.ctx, ports.BootOptions{Handler: service})
		if err != nil {
			return err
		}
		defer guest.Stop(context.Background())
	}
	r.say("listening")
	<-r.ctx.Done()
	return nil
}

// guestThatRoutes makes the links to the host and to its container, forwards between them, and asks the host.
func guestThatRoutes(r *raid) error {
	if _, err := apart(); err != nil {
		return err
	}
	for name, link := range map[string]struct{ address, thread string }{
		"tohost":      {guestOnLink + "/24", r.Args["host"]},
		"tocontainer": {guestInside + "/24", r.Args["container"]},
	} {
		thread, err := strconv.Atoi(link.thread)
		if err != nil {
			return err
		}
		attributes := netlink.NewLinkAttrs()
		attributes.Name = name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "eth0", PeerNamespace: netlink.NsPid(thread)}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := addressed(r.ctx, name, link.address); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil { // that of this thread's network
		return err
	}
	r.say("routing")
	return askThrough(r)
}

// containerInGuest asks the host from behind the guest.
func containerInGuest(r *raid) error {
	if err := inside(r, containerSide+"/24", "169.254.169.0/24", guestInside); err != nil {
		return err
	}
	r.say("inside")
	return askThrough(r)
}

// askThrough pings the host at both ports once the test has said so by ending the standard input.
func askThrough(r *raid) error {
	<-r.ctx.Done()
	for _, port := range []string{manyHops, oneHop} {
		conn, err := net.DialTimeout("tcp4", hostOnLink+port, 2*time.Second)
		if err != nil {
			r.text(port, err.Error())
			continue
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "GET "+wire.PathPing+" HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n")
		answer, _ := io.ReadAll(conn)
		r.count(port, int64(len(answer)))
		conn.Close()
	}
	return nil
}

// Threat 29. A container in the guest has a network of its own, and the guest routes for it. A host at the
// guest's tap is for the guest: its answers go one hop. With more they'd arrive. What is behind a guest in a
// real machine is shown by TestPeerBehindTheGuest.
func TestThreat29RoutedPeers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	h := &host{folder: t.TempDir(), guests: []string{""}}
	tapped := attack(t, h, "a host at a tap", nil)
	container := attack(t, h, "a container in the guest", nil)
	guest := attack(t, h, "a guest that routes", map[string]string{
		"host":      within(t, time.Minute, "the host's thread", tapped.said),
		"container": within(t, time.Minute, "the container's thread", container.said),
	})
	guest.hears(t, "routing")
	tapped.hears(t, "listening")
	container.hears(t, "inside")
	behind := container.stop(t)
	served := guest.stop(t) // and its routes with it
	for _, port := range []string{oneHop, manyHops} {
		if served.Counts[port] == 0 {
			t.Errorf("the guest is not served at %s: %s", port, served.Texts[port])
		}
	}
	if behind.Counts[manyHops] == 0 {
		t.Errorf("the container is not served with more hops, so its way is not there: %s", behind.Texts[manyHops])
	}
	if behind.Counts[oneHop] > 0 || behind.Texts[oneHop] == "" {
		t.Errorf("the container has had %d bytes", behind.Counts[oneHop])
	}
	tapped.stop(t)
}
