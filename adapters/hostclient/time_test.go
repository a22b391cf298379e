package hostclient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// piped is a client whose connections are pipes, each of which goes to serve.
func piped(t *testing.T, serve func(n int, conn net.Conn)) *hostclient.Client {
	t.Helper()
	n := 0
	client, err := hostclient.New("", hostclient.Options{Dial: func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go serve(n, theirs)
		n++
		return ours, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// silent reads what comes and says nothing.
func silent(_ int, conn net.Conn) {
	io.Copy(io.Discard, conn)
	conn.Close()
}

func TestAnswersThatNeverCome(t *testing.T) {
	for name, test := range map[string]struct {
		call func(ctx context.Context, c *hostclient.Client) error
		want time.Duration
	}{
		"poll": {func(ctx context.Context, c *hostclient.Client) error { _, err := c.Poll(ctx); return err }, 35 * time.Second},
		"execute": {func(ctx context.Context, c *hostclient.Client) error {
			_, err := c.Execute(ctx)
			return err
		}, 30 * time.Second},
		"hello": {func(ctx context.Context, c *hostclient.Client) error {
			_, err := c.Hello(ctx, domain.Hello{BootID: "b"})
			return err
		}, 30 * time.Second},
		"result":    {func(ctx context.Context, c *hostclient.Client) error { return c.Resolve(ctx, domain.Result{}) }, 30 * time.Second},
		"killed":    {func(ctx context.Context, c *hostclient.Client) error { return c.SendKilled(ctx, "x") }, 30 * time.Second},
		"not found": {func(ctx context.Context, c *hostclient.Client) error { return c.SendNotFound(ctx, "x") }, 30 * time.Second},
		"folder": {func(ctx context.Context, c *hostclient.Client) error {
			return c.SendFolder(ctx, "x", func(yield func(string, error) bool) {
				time.Sleep(time.Hour) // a large one; its time doesn't count
				yield("/x", nil)
			})
		}, time.Hour + 30*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := piped(t, silent)
				defer client.Close()
				start := time.Now()
				err := test.call(t.Context(), client)
				if took := time.Since(start); took != test.want {
					t.Errorf("it gave up after %s, want %s", took, test.want)
				}
				if err == nil || !strings.Contains(err.Error(), "the host did not answer in time") {
					t.Errorf("it returned %v", err)
				}
			})
		})
	}
}

// A transfer has no time limit of its own: the host may take it as slowly as it can.
func TestTransfersEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := piped(t, func(_ int, conn net.Conn) {
			io.ReadFull(conn, make([]byte, 1000))
			time.Sleep(6 * time.Hour)
			conn.Close()
		})
		defer client.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Hour)
		defer cancel()
		start := time.Now()
		err := client.SendArtifact(ctx, "x", &zeros{size: 1 << 30})
		if took := time.Since(start); took != 5*time.Hour || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it ended after %s with %v", took, err)
		}
		time.Sleep(2 * time.Hour) // for the host's end
	})
}

type zeros struct{ size, read int64 }

func (z *zeros) Size() int64  { return z.size }
func (z *zeros) Close() error { return nil }
func (z *zeros) Read(p []byte) (int, error) {
	n := min(int64(len(p)), z.size-z.read)
	z.read += n
	if n == 0 {
		return 0, io.EOF
	}
	return int(n), nil
}

// A host that doesn't take a log holds its writer back. Abort frees it.
func TestAbortFreesABlockedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		client := piped(t, func(_ int, conn net.Conn) { <-ctx.Done(); conn.Close() })
		defer client.Close()
		log, err := client.OpenLog(ctx)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, log.Abort)
		start := time.Now()
		for err == nil {
			_, err = log.Write(make([]byte, 1<<20))
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("the write ended after %s, want a minute (%v)", took, err)
		}
		if err := log.Close(); err == nil {
			t.Error("a log that was broken off was closed without an error")
		}
	})
}

// keepAlive answers each connection's first request, and hangs up when the second has come.
func keepAlive(requests *[]string) func(int, net.Conn) {
	return func(n int, conn net.Conn) {
		defer conn.Close()
		reader := bufio.NewReader(conn)
		for i := range 2 {
			req, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			*requests = append(*requests, fmt.Sprint(req.Method, " ", req.URL.Path, " on ", n))
			if i == 1 {
				return
			}
			io.Copy(io.Discard, req.Body)
			body := `{}`
			if req.URL.Path == wire.PathPoll {
				body = string(wire.EncodeAction(domain.Action{}))
			}
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}
}

// A host may close a kept connection just as the next request goes out on it.
func TestKeptConnectionThatTheHostClosed(t *testing.T) {
	for name, test := range map[string]struct {
		call  func(ctx context.Context, c *hostclient.Client) error
		twice bool
	}{
		"poll": {func(ctx context.Context, c *hostclient.Client) error { _, err := c.Poll(ctx); return err }, true},
		"execute": {func(ctx context.Context, c *hostclient.Client) error {
			_, err := c.Execute(ctx)
			return err
		}, true},
		"hello": {func(ctx context.Context, c *hostclient.Client) error {
			_, err := c.Hello(ctx, domain.Hello{BootID: "b"})
			return err
		}, true},
		"result": {func(ctx context.Context, c *hostclient.Client) error {
			return c.Resolve(ctx, domain.Result{Report: &domain.Report{Reason: domain.ReasonExited, ExitCode: 1}})
		}, true},
		// The id may be used up already.
		"killed": {func(ctx context.Context, c *hostclient.Client) error { return c.SendKilled(ctx, "x") }, false},
		"artifact": {func(ctx context.Context, c *hostclient.Client) error {
			return c.SendArtifact(ctx, "x", &zeros{size: 100})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var requests []string
				client := piped(t, keepAlive(&requests))
				defer client.Close()
				if _, err := client.Poll(t.Context()); err != nil {
					t.Fatal(err)
				}
				err := test.call(t.Context(), client)
				synctest.Wait()
				if test.twice != (err == nil) || len(requests) < 2 || (len(requests) == 3) != test.twice {
					t.Errorf("%v after %q; sent again: want %v", err, requests, test.twice)
				}
			})
		})
	}
}

// deadConn takes nothing, as a connection whose host has hung up.
type deadConn struct {
	net.Conn
	dead *bool
}

func (c deadConn) Write(p []byte) (int, error) {
	if *c.dead {
		c.Conn.Close()
		return 0, os.ErrClosed
	}
	return c.Conn.Write(p)
}

// Where not a byte went out, anything may be sent again: nobody has seen it.
func TestNothingWrittenIsSentAgain(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, c *hostclient.Client) error{
		"killed": func(ctx context.Context, c *hostclient.Client) error { return c.SendKilled(ctx, "x") },
		"artifact": func(ctx context.Context, c *hostclient.Client) error {
			return c.SendArtifact(ctx, "x", &zeros{size: 100})
		},
		"folder": func(ctx context.Context, c *hostclient.Client) error {
			return c.SendFolder(ctx, "x", func(yield func(string, error) bool) { yield("/x", nil) })
		},
		"log": func(ctx context.Context, c *hostclient.Client) error {
			log, err := c.OpenLog(ctx)
			if err != nil {
				return err
			}
			if _, err := log.Write([]byte("x")); err != nil {
				return err
			}
			return log.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var requests []string
				serve := keepAlive(&requests)
				n := 0
				dead := false
				client, err := hostclient.New("", hostclient.Options{Dial: func(context.Context) (net.Conn, error) {
					ours, theirs := net.Pipe()
					go serve(n, theirs)
					n++
					if n > 1 {
						return ours, nil
					}
					return deadConn{ours, &dead}, nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				if _, err := client.Poll(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				dead = true
				if err := call(t.Context(), client); err != nil {
					t.Errorf("it was not sent again on a new connection: %v", err)
				}
			})
		})
	}
}

// The end of an answer may never come.
func TestAnswersThatDontEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := piped(t, func(_ int, conn net.Conn) {
			defer conn.Close()
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
				return
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			block := bytes.Repeat([]byte(" "), 1<<20)
			for {
				if _, err := conn.Write(block); err != nil {
					return
				}
			}
		})
		defer client.Close()
		_, err := client.Execute(t.Context())
		if _, limited := errors.AsType[*domain.LimitError](err); !limited {
			t.Errorf("an answer without end returned %v, want a limit", err)
		}
	})
}

// A host may go away while the task is silent for hours. What it says then is not lost to a connection that
// is known to be dead: the number of bytes that may be lost is 0, so they go into the next body.
func TestALogWhoseConnectionEndsWhileItIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := piped(t, func(_ int, conn net.Conn) {
			http.ReadRequest(bufio.NewReader(conn))
			time.Sleep(time.Hour)
			conn.Close()
		})
		defer client.Close()
		log, err := client.OpenLog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if n, err := log.Write([]byte("x")); n != 0 || err == nil {
			t.Errorf("wrote %d bytes, %v", n, err)
		}
		if err := log.Close(); err == nil {
			t.Error("a log whose connection ended was closed without an error")
		}
	})
}

// A host that refuses a log answers, and hangs up: its word is heard.
func TestALogThatIsRefusedWhileItIsSilent(t *testing.T) {
	for range 20 { // the answer and the end come together
		synctest.Test(t, func(t *testing.T) {
			client := piped(t, func(_ int, conn net.Conn) {
				http.ReadRequest(bufio.NewReader(conn))
				body := wire.EncodeError(&domain.Error{Code: domain.CodeResourceConflict, Message: "no"})
				fmt.Fprintf(conn, "HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
				conn.Close()
			})
			defer client.Close()
			log, err := client.OpenLog(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if n, err := log.Write([]byte("x")); n != 0 || !errors.Is(err, &domain.Error{Code: domain.CodeResourceConflict}) {
				t.Errorf("wrote %d bytes, %v", n, err)
			}
			log.Abort()
		})
	}
}
