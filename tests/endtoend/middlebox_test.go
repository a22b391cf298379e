//go:build unix

package endtoend

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
)

// A middlebox takes the log's first bytes and resets the connection before the host has seen one. Of the
// two only the guest knows that something is missing: it must not call that a success.
func TestALogLostBeforeTheHostSawItIsNoSuccess(t *testing.T) {
	log := &sink{}
	service := metaservice.New([]string{"sh", "-c", "echo hello"}, nil, log, nil, nil)
	defer service.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	defer serveAt(t, address, service)()
	box := newMiddlebox(t, address)

	words := &sink{}
	tools := exec.Command(tool("guest-tools"), "--host", box.listener.Addr().String())
	tools.Env = []string{"PATH=" + os.Getenv("PATH")}
	tools.Dir = t.TempDir()
	tools.Stderr = words
	if err := tools.Start(); err != nil {
		t.Fatal(err)
	}
	defer tools.Wait()
	defer tools.Process.Kill()

	outcome, err := service.Outcome(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !box.reset.Load() || log.String() != "" {
		t.Fatalf("reset: %t, log %q: that isn't what this test is about", box.reset.Load(), log.String())
	}
	report := outcome.Report()
	if outcome.Succeeded() || outcome.Status != domain.StatusFailed || report == nil ||
		report.ExitCode != 0 || !strings.Contains(report.Message, "the log was not delivered whole") {
		t.Errorf("outcome %+v, report %v\n%s", outcome, report, words.String())
	}
}

// middlebox passes connections on, but resets the one with the first log as soon as that has a byte in it.
type middlebox struct {
	listener net.Listener
	to       string
	reset    atomic.Bool
}

func newMiddlebox(t *testing.T, to string) *middlebox {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &middlebox{listener: listener, to: to}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { m.forward(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		all.Wait()
	})
	return m
}

// forward ends when either side has.
func (m *middlebox) forward(guest *net.TCPConn) {
	defer guest.Close()
	host, err := net.DialTimeout("tcp", m.to, 10*time.Second)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(guest, host)
		guest.Close()
	})
	defer back.Wait()
	defer host.Close()
	held := []byte(nil) // a log that may have no byte in it yet
	for chunk := make([]byte, 64<<10); ; {
		n, err := guest.Read(chunk)
		if err != nil {
			return
		}
		if held == nil && (m.reset.Load() || !bytes.HasPrefix(chunk[:n], []byte("POST /engine/v1/log"))) {
			if _, err := host.Write(chunk[:n]); err != nil {
				return
			}
			continue
		}
		held = append(held, chunk[:n]...)
		if bytes.Contains(held, []byte("hello")) {
			m.reset.Store(true)
			guest.SetLinger(0)
			return
		}
	}
}
