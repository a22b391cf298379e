package vmnet

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// routedOutside asks the kernel where it would send a packet to an address, and refuses what isn't on its way
// out: a local route, a broadcast, a multicast.
func routedOutside(a netip.Addr) error {
	user := uint32(os.Geteuid())
	routes, err := netlink.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{UID: &user})
	if err != nil {
		return fmt.Errorf("no route: %w", err)
	}
	for _, route := range routes {
		if route.Type != unix.RTN_UNICAST {
			return errHere
		}
	}
	return nil
}

// deaf is a socket filter that drops what comes by a loopback device. It stands before the socket's state, so
// that there is no handshake with the host either. It takes no root.
var deaf = sync.OnceValues(func() ([]unix.SockFilter, error) {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtLinkLayerType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ARPHRD_LOOPBACK, SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: math.MaxUint32}, // keep all of it
	})
	filter := make([]unix.SockFilter, len(program))
	for i, one := range program {
		filter[i] = unix.SockFilter{Code: one.Op, Jt: one.Jt, Jf: one.Jf, K: one.K}
	}
	return filter, err
})

// keepOutside makes a socket, before it is connected, deaf to the host itself, and keeps it from broadcasts, which
// the host hears, too.
func keepOutside(_, _ string, raw syscall.RawConn) error {
	filter, failed := deaf()
	if failed != nil {
		return failed
	}
	err := raw.Control(func(fd uintptr) {
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		failed = errors.Join(
			unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0),
		)
	})
	return errors.Join(err, failed)
}
