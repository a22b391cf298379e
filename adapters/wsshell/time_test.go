package wsshell_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// memoryListener hands out connections in memory, for bubbles. What goes through them is lost once lost is
// set: then nobody hears of anything any more, as when a machine or a network is gone.
type memoryListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
	lost  atomic.Bool
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "memory"} }

func (l *memoryListener) dial(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	l.conns <- &lossyConn{theirs, &l.lost}
	return &lossyConn{ours, &l.lost}, nil
}

// lossyConn loses what is written, be it the end.
type lossyConn struct {
	net.Conn
	lost *atomic.Bool
}

func (c *lossyConn) Write(p []byte) (int, error) {
	if c.lost.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *lossyConn) Close() error {
	if c.lost.Load() {
		return c.SetDeadline(time.Unix(1, 0)) // it ends here, and the other side doesn't hear of it
	}
	return c.Conn.Close()
}

// inBubble runs a test with both ends of a shell, where time is faked.
func inBubble(t *testing.T, spec domain.ShellSpec, test func(t *testing.T, p *pair, l *memoryListener)) {
	t.Helper()
	for name, features := range versions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := newMemoryListener()
				test(t, connect(t, listener, listener.dial, features, spec), listener)
			})
		})
	}
}

// Two ends that have nothing to say to each other for a day are both still there, and a word gets through.
func TestAShellMayBeIdle(t *testing.T) {
	inBubble(t, domain.ShellSpec{}, func(t *testing.T, p *pair, _ *memoryListener) {
		time.Sleep(24 * time.Hour)
		go io.WriteString(p.host.StdinPipe(), "hello")
		got := make([]byte, 5)
		if _, err := io.ReadFull(p.guest.Stdin(), got); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		if err := p.guest.Exit(t.Context(), domain.Report{Reason: domain.ReasonExited}); err != nil {
			t.Errorf("Exit: %v", err)
		}
		if success, err := p.host.Wait(); !success || err != nil {
			t.Errorf("Wait: %v, %v", success, err)
		}
	})
}

// Where the other side has vanished, either end gives up 45 s after it was last heard, which is 15 s at most
// before: the guest is told so that it kills the process, and the host never takes it for an end.
func TestAnEndThatVanishes(t *testing.T) {
	inBubble(t, domain.ShellSpec{}, func(t *testing.T, p *pair, l *memoryListener) {
		time.Sleep(time.Hour)
		start := time.Now()
		l.lost.Store(true)
		<-p.guest.Done()
		if took := time.Since(start); took < 30*time.Second || took > 60*time.Second {
			t.Errorf("the guest gives up after %s", took)
		}
		if err := p.guest.Err(); err == nil || errors.Is(err, domain.ErrShellAborted) {
			t.Errorf("Err: %v", err)
		}
		if _, err := p.guest.Stdin().Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("the guest's input ends with %v", err)
		}
		if _, err := p.guest.Stdout().Write([]byte("x")); err == nil {
			t.Error("the guest can write")
		}
		if _, err := p.host.Wait(); !errors.Is(err, domain.ErrNonFatalInternalError) {
			t.Errorf("Wait: %v", err)
		}
		<-p.served
		if took := time.Since(start); took > 60*time.Second {
			t.Errorf("the host gives up after %s", took)
		}
	})
}

// An abort is told to the guest at once. What the host holds of a guest that doesn't react is gone after
// 6 s, and its caller has waited for nothing.
func TestAnAbortLingersFor6s(t *testing.T) {
	inBubble(t, domain.ShellSpec{}, func(t *testing.T, p *pair, _ *memoryListener) {
		start := time.Now()
		if err := p.host.Abort(); err != nil {
			t.Error(err)
		}
		if _, err := p.host.Wait(); !errors.Is(err, domain.ErrShellAborted) {
			t.Errorf("Wait: %v", err)
		}
		<-p.guest.Done()
		if err := p.guest.Err(); !errors.Is(err, domain.ErrShellAborted) {
			t.Errorf("Err: %v", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %s", took)
		}
		<-p.served
		if took := time.Since(start); took != 6*time.Second {
			t.Errorf("the host's end is gone after %s", took)
		}
	})
}

// A guest that says that all is gone frees the host earlier.
func TestAnAbortedGuestSaysSo(t *testing.T) {
	inBubble(t, domain.ShellSpec{}, func(t *testing.T, p *pair, _ *memoryListener) {
		start := time.Now()
		if err := p.host.Abort(); err != nil {
			t.Error(err)
		}
		<-p.guest.Done()
		time.Sleep(3 * time.Second)
		_ = p.guest.Exit(t.Context(), domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonKilled})
		<-p.served
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the host's end is gone after %s", took)
		}
	})
}

// A guest whose host vanishes just as it tells its exit doesn't wait for it for ever, nor beyond its context.
func TestAnExitThatNobodyHears(t *testing.T) {
	for patience, want := range map[time.Duration]time.Duration{time.Hour: 10 * time.Second, time.Second: time.Second} {
		inBubble(t, domain.ShellSpec{}, func(t *testing.T, p *pair, l *memoryListener) {
			l.lost.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			start := time.Now()
			_ = p.guest.Exit(ctx, domain.Report{Reason: domain.ReasonExited})
			if took := time.Since(start); took > want {
				t.Errorf("with %s to go it took %s", patience, took)
			}
			select {
			case <-p.guest.Done():
			default:
				t.Error("it is not done")
			}
		})
	}
}

// The end of Serve's context breaks a shell off, with its cause.
func TestServesContextEnds(t *testing.T) {
	inBubble(t, domain.ShellSpec{}, func(t *testing.T, p *pair, _ *memoryListener) {
		why := errors.New("the machine is gone")
		p.cancel(why)
		for range 2 {
			if _, err := p.host.Wait(); !errors.Is(err, why) || !errors.Is(err, domain.ErrNonFatalInternalError) {
				t.Errorf("Wait: %v", err)
			}
			if _, err := io.ReadAll(p.host.StdoutPipe()); !errors.Is(err, why) {
				t.Errorf("standard output: %v", err)
			}
		}
		<-p.served
		<-p.guest.Done()
		if err := p.guest.Err(); err == nil || errors.Is(err, domain.ErrShellAborted) {
			t.Errorf("Err: %v", err)
		}
	})
}

// Where a guest's memory is used up, its windows stay as they are. An output that was closed while a block
// of it was half read kept that block's share, which was nearly all of it: the guest stood still.
func TestAClosedOutputGivesAllOfItsWindowBack(t *testing.T) {
	for name, features := range versions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := newMemoryListener()
				p := connectOn(t, listener, listener.dial, features, ports.ShellTerms{})
				written := make(chan error, 1)
				go func() {
					_, err := p.guest.Stdout().Write(make([]byte, 1<<20))
					written <- err
				}()
				synctest.Wait()
				if _, err := io.ReadFull(p.host.StdoutPipe(), make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
				if err := p.host.StdoutPipe().Close(); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				select {
				case err := <-written:
					if err != nil {
						t.Error(err)
					}
				default:
					t.Error("the guest stands still")
				}
				if _, err := p.host.StdoutPipe().Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("a read after Close: %v", err)
				}
			})
		})
	}
}

// How long a guest may leave pings unanswered is for its host to say.
func TestSilenceIsTheHostsToSay(t *testing.T) {
	for _, answer := range []bool{false, true} {
		t.Run(fmt.Sprintf("answering %t", answer), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := attackWith(t, version2, ports.ShellTerms{Silence: 3 * time.Second})
				frames := a.reads(answer)
				began := time.Now()
				if answer {
					time.Sleep(20 * time.Second)
					a.conn.Close()
				}
				err := a.over()
				took := time.Since(began)
				if !answer && (took != 3*time.Second || !strings.Contains(err.Error(), "has not answered for 3s")) {
					t.Errorf("after %s its caller is told %v", took, err)
				}
				if answer && took != 20*time.Second {
					t.Errorf("it was over after %s, %v", took, err)
				}
				a.conn.Close()
				if n, want := len(<-frames), int(took/time.Second); n < want-1 || n > want {
					t.Errorf("%d pings in %s", n, took)
				}
			})
		})
	}
}

// A shell whose time is over ends as one whose guest has seen to that: its outputs end behind what came in time,
// whatever the guest goes on with, and the result is what its host says.
func TestAShellWhoseTimeIsOver(t *testing.T) {
	for name, features := range versions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := attack(t, features, domain.ShellSpec{})
				frames := a.reads(true)
				window := make([]byte, domain.ShellBlock)
				if err := a.sends(output(domain.Stdout, []byte("in time"))); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				result := domain.Result{Report: &domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonTimeout}}
				if err := a.host.Expire(result); err != nil {
					t.Error(err)
				}
				if err := a.host.Expire(domain.Result{Success: true}); err != domain.ErrShellTerminated {
					t.Errorf("Expire, again: %v", err)
				}
				for range 12 { // three windows, of which each block is acked
					if err := a.sends(output(domain.Stdout, window), output(domain.Stderr, window)); err != nil {
						t.Error(err)
					}
					synctest.Wait()
				}
				if err := a.sends(output(domain.Stdout, nil), output(domain.Stderr, nil), exit(true)); err != nil {
					t.Error(err)
				}
				a.conn.Close()
				<-a.served
				for stream, want := range map[io.Reader]string{a.host.StdoutPipe(): "in time", a.host.StderrPipe(): ""} {
					if got, err := io.ReadAll(stream); err != nil || string(got) != want {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				}
				if got, err := a.host.Result(t.Context()); err != nil || got != result {
					t.Errorf("the result is %+v, %v", got, err)
				}
				if success, err := a.host.Wait(); success || err != nil {
					t.Errorf("Wait: %t, %v", success, err)
				}
				for what, err := range map[string]error{"Abort": a.host.Abort(), "SetSize": a.host.SetSize(1, 1)} {
					if what == "Abort" && err != domain.ErrShellTerminated || err == nil {
						t.Errorf("%s: %v", what, err)
					}
				}
				if _, err := a.host.StdinPipe().Write([]byte("x")); err != domain.ErrShellTerminated {
					t.Errorf("Write: %v", err)
				}
				var aborts int
				for _, f := range <-frames {
					if f.opcode == opBinary && domain.FrameType(f.payload[0]) == domain.FrameAbort {
						aborts++
					}
				}
				if aborts != 1 {
					t.Errorf("the guest was told to end it %d times", aborts)
				}
			})
		})
	}
}
