//go:build unix

package hostclient_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"testing"

	"github.com/hexworker/metaservice/adapters/hostclient"
)

// unread is a connection of which nobody has the time to read anything before read is closed.
type unread struct {
	*net.TCPConn
	read chan struct{}
}

func (c unread) Read(p []byte) (int, error) {
	<-c.read
	return c.TCPConn.Read(p)
}

// A host may have gone away a moment ago, of which net/http doesn't know yet: nothing is written into its
// connection then, or it would be lost.
func TestALogWhoseConnectionHasJustEnded(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	read := make(chan struct{})
	defer close(read)
	client, err := hostclient.New("", hostclient.Options{Dial: func(context.Context) (net.Conn, error) {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return nil, err
		}
		return unread{conn.(*net.TCPConn), read}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	log, err := client.OpenLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Abort()
	host, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.ReadRequest(bufio.NewReader(host))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := log.Write([]byte("taken")); n != 5 || err != nil {
		t.Fatalf("wrote %d bytes, %v", n, err)
	}
	if n, err := request.Body.Read(make([]byte, 10)); n != 5 || err != nil {
		t.Fatalf("the host has read %d bytes, %v", n, err)
	}
	host.Close()
	if n, err := log.Write([]byte("lost")); n != 0 || err == nil {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
}
