//go:build unix

package httpserver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/httpserver"
)

// nofileEnv makes the test binary the host that runs out of descriptors.
const nofileEnv = "METASERVICE_TEST_NOFILE"

// Threat 16: a host that has no descriptors left, for whatever reason, goes on once it has some. It runs in a
// process of its own, whose limit nobody else meets.
func TestThreat16NoDescriptorsLeft(t *testing.T) {
	if os.Getenv(nofileEnv) != "" {
		withoutDescriptors(t)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestThreat16NoDescriptorsLeft$", "-test.timeout=60s")
	child.Env = append(os.Environ(), nofileEnv+"=1")
	if output, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

func withoutDescriptors(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var logged records
	over := make(chan error, 1)
	go func() { over <- httpserver.Serve(ctx, listener, http.HandlerFunc(ok), slog.New(&logged)) }()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	works := func(conn net.Conn) error {
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
		}
		if err == nil {
			_, err = reader.WriteTo(io.Discard) // until the host has closed its descriptor
		}
		return err
	}
	first := dial()
	if err := works(first); err != nil {
		t.Fatalf("before: %v", err)
	}
	first.Close()
	waiting := dial() // its place in the kernel's queue needs one descriptor here, and another one to accept it
	if err := works(waiting); err != nil {
		t.Fatalf("before: %v", err)
	}
	waiting.Close()

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = 64
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	var all []*os.File
	for {
		file, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, file)
	}
	all[0].Close() // for the one that dials
	conn := dial()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(logged.text(), "too many open files"); {
		select {
		case err := <-over:
			t.Fatalf("serving ended: %v", err)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("it never ran out of descriptors: %q", logged.text())
		}
	}
	for _, file := range all[1:] {
		file.Close()
	}
	if err := works(conn); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	conn.Close()
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}
