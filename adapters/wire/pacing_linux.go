package wire

import (
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// unpaced is a congestion control that sends as soon as it may. Every kernel has it, and lets everybody use it.
const unpaced = "reno"

// DontPace has what is sent on a connection within a machine, or to its own metadata address, sent at once.
// Where a system's default is BBR, timers pace it: between a guest and its host nothing is ever lost for want
// of that, and it costs a third of the rate and twice the processor time. Over a network the default stays.
func DontPace(conn net.Conn) {
	socket, ok := conn.(syscall.Conn)
	if !ok || !isNear(conn.RemoteAddr()) {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // without it, it is only slower
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, unpaced)
	})
}

// isNear tells whether nothing is between us and the peer but a machine's own, or a guest's, link.
func isNear(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	if !ok {
		return false
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsLinkLocalUnicast()
}
