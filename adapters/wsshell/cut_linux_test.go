package wsshell_test

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// held is a connection that isn't read before it is let go.
type held struct {
	net.Conn
	let <-chan struct{}
}

func (h *held) Read(p []byte) (int, error) {
	<-h.let
	return h.Conn.Read(p)
}

// A guest that has told its exit may be gone with a reset before its host has read a byte: whatever the host
// wants to write first, credit or pongs or input, fails then. The kernel still has what came before.
func TestThreat25AnExitBeforeAResetIsNotLost(t *testing.T) {
	resets := 100
	if *contract.Long {
		resets = 1000
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for i := range resets {
		guest, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		let, served := make(chan struct{}), make(chan struct{})
		host := accept(t, &held{conn, let}, version2, ports.ShellTerms{})
		go func() {
			host.Serve(t.Context())
			close(served)
		}()
		want := random(1 + i*331%40_000)
		all := bytes.Join([][]byte{
			frame(opPing, 1, 2, 3), output(domain.Stdout, want), frame(opPing), output(domain.Stdout, nil),
			ack(domain.Stdin, 1), output(domain.Stderr, nil), frame(opPing), exit(i%3 > 0), closing(1000),
		}, nil)
		if _, err := guest.Write(all); err != nil {
			t.Fatal(err)
		}
		if err := guest.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		guest.Close()
		if i%2 > 0 { // a write that fails before anything is read
			for err := error(nil); err == nil; {
				_, err = host.StdinPipe().Write([]byte("x"))
			}
		}
		close(let)
		got, err := io.ReadAll(host.StdoutPipe())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d came, %v", len(got), len(want), err)
		}
		if success, err := host.Wait(); err != nil || success != (i%3 > 0) {
			t.Errorf("the result is %v, %v", success, err)
		}
		<-served
		if t.Failed() {
			t.Fatalf("number %d", i)
		}
	}
}
