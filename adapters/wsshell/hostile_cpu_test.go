//go:build unix

package wsshell_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// The environment of an attacker that is a process of its own: what it sends, where to, and whether it keeps
// within the rate that is let through.
const (
	floodName  = "WSSHELL_TEST_FLOOD"
	floodTo    = "WSSHELL_TEST_FLOOD_TO"
	floodPaced = "WSSHELL_TEST_FLOOD_PACED"
)

// TestTheFloodingProcess is the attacker, where the environment says so.
func TestTheFloodingProcess(t *testing.T) {
	flood, ok := floods[os.Getenv(floodName)]
	if !ok {
		t.Skip("it is a part of TestThreats18To20WhatAFloodCosts")
	}
	conn, err := net.Dial("tcp", os.Getenv(floodTo))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if flood.answer {
		go func() {
			for {
				if _, err := readFrame(conn); err != nil {
					return
				}
			}
		}()
	}
	_, err = conn.Write(flood.begin)
	const pieces = 100 // a second
	some := bytes.Repeat(flood.frame, 64<<10/len(flood.frame))
	var tick <-chan time.Time
	if os.Getenv(floodPaced) != "" {
		some = bytes.Repeat(flood.frame, 60<<10/pieces/len(flood.frame))
		tick = time.Tick(time.Second / pieces)
	}
	for err == nil {
		if tick != nil {
			<-tick
		}
		_, err = conn.Write(some)
	}
}

// metered is a connection that counts what is read from it.
type metered struct {
	net.Conn
	read atomic.Int64
}

func (c *metered) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// cpu is the processor time that this process has used.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// flooded runs a shell whose guest is the flooding process, for a time at most, and returns what it cost the
// host, and what its caller was told.
func flooded(t *testing.T, name string, paced bool, most time.Duration) (cost time.Duration, read int64, said error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	attacker := exec.Command(os.Args[0], "-test.run=^TestTheFloodingProcess$")
	attacker.Env = append(os.Environ(), floodName+"="+name, floodTo+"="+listener.Addr().String())
	if paced {
		attacker.Env = append(attacker.Env, floodPaced+"=1")
	}
	if err := attacker.Start(); err != nil {
		t.Fatal(err)
	}
	defer attacker.Wait()
	defer attacker.Process.Kill()
	raw, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := &metered{Conn: raw}
	ctx, cancel := context.WithTimeoutCause(t.Context(), most, errEnough)
	defer cancel()
	before := cpu(t)
	host := accept(t, conn, version2, ports.ShellTerms{Spec: domain.ShellSpec{}})
	host.Serve(ctx)
	cost = cpu(t) - before
	_, err = host.Wait()
	return cost, conn.read.Load(), err
}

type enough struct{}

func (enough) Error() string { return "that is enough" }

var errEnough = enough{}

// A flood is over before it has cost anything to speak of, and one that is slow enough to be let through
// costs less than a twentieth of a core.
func TestThreats18To20WhatAFloodCosts(t *testing.T) {
	for name := range floods {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			cost, read, err := flooded(t, name, false, 30*time.Second)
			took := time.Since(began)
			mayCome := 512<<10 + int64(took.Seconds()*65536)
			if read > mayCome {
				t.Errorf("the host has read %d bytes", read)
			}
			if strings.Contains(err.Error(), errEnough.Error()) && read < mayCome-128<<10 {
				t.Logf("%d bytes in %s: a machine this busy brings no flood", read, took)
			} else if !strings.Contains(err.Error(), "floods the connection") {
				t.Errorf("after %s its caller is told %v", took, err)
			}
			t.Logf("%d bytes, %s of processor time", read, cost)
			if limit := 2 * time.Second / 20; cost > limit && !raceDetector {
				t.Errorf("it has cost %s of processor time, and not %s", cost, limit)
			}
		})
	}
	for _, name := range []string{"18 zero-length continuations", "20 pings", "20 messages of an unknown type"} {
		t.Run(name+", slowly", func(t *testing.T) {
			const lasts = time.Second
			limit := lasts / 20
			var cost time.Duration
			for range 3 { // the processor's time has its noise: to cost so little once is enough
				var read int64
				var err error
				if cost, read, err = flooded(t, name, true, lasts); !strings.Contains(err.Error(), errEnough.Error()) {
					t.Errorf("its caller is told %v", err)
				}
				t.Logf("%d bytes, %s of processor time", read, cost)
				if cost <= limit || raceDetector {
					return
				}
			}
			t.Errorf("it has cost %s of processor time, and not %s", cost, limit)
		})
	}
}
