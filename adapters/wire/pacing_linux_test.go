package wire

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestConnectionsWithinAMachineAreNotPaced(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	DontPace(conn)
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if err := raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) }); err != nil {
		t.Fatal(err)
	}
	if err != nil || name != unpaced {
		t.Errorf("it is %q, %v", name, err)
	}
}

func TestWhatIsNear(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1:80": true, "[::1]:80": true, "169.254.169.254:80": true, "[::ffff:127.0.0.1]:80": true,
		"10.0.0.1:80": false, "192.0.2.1:80": false, "[2001:db8::1]:80": false,
	} {
		addr, err := net.ResolveTCPAddr("tcp", text)
		if err != nil {
			t.Fatal(err)
		}
		if isNear(addr) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
	if isNear(&net.UnixAddr{Name: "x", Net: "unix"}) {
		t.Error("a unix socket knows no congestion")
	}
}
