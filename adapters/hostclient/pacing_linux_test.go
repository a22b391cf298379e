package hostclient

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Logs and artifacts come in bulk as much as shells do, which pacing slows.
func TestWhatIsSentToTheHostIsNotPaced(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := New(listener.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := client.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if failed := raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	if name != "reno" {
		t.Errorf("the congestion control is %q, which may pace", name)
	}
}
