package wsshell_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

var seed = flag.Uint64("seed", 0, "the seed of the cuts; 0 is a new one")

// cutPeers are who talks to the host.
type cutPeers int

const (
	cutOld cutPeers = iota // a guest of version 1, in a script: every message in pieces
	cut1
	cut2
)

func (p cutPeers) String() string {
	return [...]string{"an old guest", "version 1", "version 2"}[p]
}

// cutShell is a shell whose connection is cut.
type cutShell struct {
	peers                 cutPeers
	stdin, stdout, stderr []byte
	report                domain.Report
	fromHost              bool // bytes are counted that the host sends, and not the guest
	after                 int  // so many; negative is never
	kind                  cutKind
	late                  bool // the host's caller reads when all is over
}

// TestThreat25TheConnectionIsCut drops the connection after any number of bytes, in either direction, in order,
// with an error or without a word. Whatever has arrived by then counts, and nothing else: the output in whole
// messages, and the exit, which is never made up and never lost.
func TestThreat25TheConnectionIsCut(t *testing.T) {
	cuts := 500
	if *contract.Long {
		cuts = 10_000
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	var all []cutShell
	for _, peers := range []cutPeers{cutOld, cut1, cut2} {
		for _, fromHost := range []bool{false, true} {
			for _, kind := range []cutKind{cutFIN, cutRST, cutStop} {
				for _, size := range []int{100, 100_000} {
					all = append(all, cutShell{peers: peers, fromHost: fromHost, kind: kind, after: size})
				}
			}
		}
	}
	t.Logf("%d cuts, -seed %d", cuts, *seed)
	for i, shell := range all {
		name := fmt.Sprintf("%s, %d bytes, cut by %s, host's %v", shell.peers, shell.after, shell.kind, shell.fromHost)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(*seed, uint64(i)))
			shell.choose(random)
			shell.after = -1
			total := shell.run(t)
			for range (cuts + len(all) - 1) / len(all) {
				shell.late = random.IntN(4) == 0
				shell.after = random.IntN(total + 1)
				if random.IntN(2) == 0 { // between data and exit, in them, and in the close frame
					shell.after = max(0, total-random.IntN(200))
				}
				shell.run(t)
				if t.Failed() {
					t.Fatalf("it was cut after %d bytes of %d, read late: %v", shell.after, total, shell.late)
				}
			}
		})
	}
}

// choose fills in what is said, whose size is in after.
func (c *cutShell) choose(random *rand.Rand) {
	bytes := func(most int) []byte {
		b := make([]byte, random.IntN(most+1))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	size := c.after
	c.stdout, c.stderr, c.stdin = bytes(size), bytes(size/3), bytes(size/3)
	c.stdout = c.stdout[:min(len(c.stdout), 64<<10)] // what an old guest sends without credit, and nobody reads
	c.report = domain.Report{Reason: domain.ReasonExited}
	if random.IntN(3) == 0 {
		c.report.ExitCode = 3
	}
}

// run makes one shell, judges what became of it, and returns how many bytes were sent that count.
func (c *cutShell) run(t *testing.T) (total int) {
	synctest.Test(t, func(t *testing.T) {
		guestEnd, hostEnd := newLink()
		var all sync.WaitGroup
		arm := func() {
			limits := [2]int{c.after, -1}
			if c.fromHost {
				limits = [2]int{-1, c.after}
			}
			guestEnd.arm(limits[0], c.kind)
			hostEnd.arm(limits[1], c.kind)
		}
		var host *wsshell.HostShell
		if c.peers == cutOld {
			host = accept(t, hostEnd, nil, ports.ShellTerms{})
			arm()
			all.Go(func() { c.oldGuest(guestEnd) })
		} else {
			hosts := make(chan *wsshell.HostShell)
			go func() { hosts <- c.answer(t, hostEnd, arm) }()
			guest, err := wsshell.Dial(t.Context(), wsshell.Target{
				URL: "http://host/reply", Dial: func(context.Context) (net.Conn, error) { return guestEnd, nil }, Shell2: c.peers == cut2,
			})
			host = <-hosts
			if err != nil { // a connection that is gone when the handshake is just over
				guestEnd.Close()
			} else {
				all.Go(func() { c.guest(t, guest) })
			}
		}
		all.Go(func() { host.Serve(context.Background()) })
		c.judge(t, host, guestEnd)
		if guestEnd.Close(); c.kind == cutStop { // what is silent is closed by nobody else
			hostEnd.Close()
		}
		all.Wait()
		total = len(guestEnd.arrived())
		if c.fromHost {
			total = len(hostEnd.arrived())
		}
	})
	return total
}

// answer completes a guest's handshake. The cut counts from then on.
func (c *cutShell) answer(t *testing.T, conn *linkEnd, arm func()) *wsshell.HostShell {
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		panic(err) // nothing is cut yet
	}
	features := domain.Features{domain.FeatureExec}
	if c.peers == cut2 {
		features = version2
	}
	answer := writerFunc(func(p []byte) (int, error) {
		n, err := conn.Write(p)
		arm()
		return n, err
	})
	host, err := wsshell.Accept(&hijacked{conn, http.Header{}, answer}, r, features, ports.ShellTerms{Memory: plenty{}})
	if err != nil {
		panic(err)
	}
	return host
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// guest is the new guest: it does as the guest's tools do.
func (c *cutShell) guest(t *testing.T, guest *wsshell.GuestShell) {
	defer guest.Close()
	var all sync.WaitGroup
	whole := true
	var mu sync.Mutex
	stream := func(w io.WriteCloser, data []byte) {
		all.Go(func() {
			_, err := io.Copy(w, bytes.NewReader(data))
			if err = errors.Join(err, w.Close()); err != nil {
				mu.Lock()
				defer mu.Unlock()
				whole = false
			}
		})
	}
	stream(guest.Stdout(), c.stdout)
	stream(guest.Stderr(), c.stderr)
	all.Go(func() {
		got, err := io.ReadAll(guest.Stdin())
		if !bytes.HasPrefix(c.stdin, got) || err == nil && len(got) != len(c.stdin) {
			t.Errorf("the guest has read %d bytes of %d, %v", len(got), len(c.stdin), err)
		}
	})
	all.Wait()
	if !whole {
		<-guest.Done()
		if guest.Err() == nil {
			t.Error("the guest isn't told why it is over")
		}
		return
	}
	_ = guest.Exit(context.Background(), c.report) // nobody may be there
}

// oldGuest is a guest of version 1, which fragments its messages, and leaves it to the host to hang up.
func (c *cutShell) oldGuest(conn *linkEnd) {
	random := rand.New(rand.NewPCG(1, uint64(len(c.stdout))))
	written := make(chan struct{})
	go func() {
		defer close(written)
		for _, message := range c.script(random) {
			for at := 0; at < len(message); {
				n := min(len(message)-at, 1+random.IntN(5000))
				opcode := opContinuation
				if at == 0 {
					opcode = opBinary
				}
				if at+n < len(message) {
					opcode |= notLast
				}
				if _, err := conn.Write(frame(opcode, message[at:at+n]...)); err != nil {
					return
				}
				at += n
			}
			if random.IntN(10) == 0 {
				_, _ = conn.Write(frame(opPing, 1, 2, 3))
			}
		}
		_, _ = conn.Write(closing(1000))
	}()
	for {
		if _, err := readFrame(conn); err != nil {
			break
		}
	}
	<-written
	conn.Close()
}

// script is all that an old guest says: its outputs in turn, their ends, and its exit.
func (c *cutShell) script(random *rand.Rand) (messages [][]byte) {
	left := map[domain.Stream][]byte{domain.Stdout: c.stdout, domain.Stderr: c.stderr}
	for len(left) > 0 {
		stream := domain.Stdout
		if random.IntN(2) == 0 {
			stream = domain.Stderr
		}
		data, open := left[stream]
		if !open {
			continue
		}
		n := min(len(data), 1+random.IntN(domain.ShellBlock))
		messages = append(messages, domain.Frame{Type: domain.FrameData, Stream: stream, Bytes: data[:n]}.Append(nil))
		if left[stream] = data[n:]; n == 0 { // the stream's end
			delete(left, stream)
		}
	}
	return append(messages, domain.Frame{Type: domain.FrameExit, Success: c.report.Succeeded()}.Append(nil))
}

// heard is what has arrived at the host.
type heard struct {
	outputs map[domain.Stream][]byte
	ended   map[domain.Stream]bool
	report  *domain.Report
	exited  bool
	success bool
}

// parse takes apart what has arrived: whole messages, until the bytes end.
func parse(t *testing.T, arrived []byte) heard {
	h := heard{outputs: make(map[domain.Stream][]byte), ended: make(map[domain.Stream]bool)}
	r := bytes.NewReader(arrived)
	var message []byte
	for {
		f, err := readFrame(r)
		if err != nil || f.opcode == opClose {
			return h
		}
		if f.opcode > opBinary {
			continue
		}
		if message = append(message, f.payload...); !f.last {
			continue
		}
		said, err := domain.ParseFrame(message)
		if err != nil {
			t.Errorf("the guest has said %q: %v", message, err)
		}
		message = nil
		switch said.Type {
		case domain.FrameData:
			h.ended[said.Stream] = len(said.Bytes) == 0
			h.outputs[said.Stream] = append(h.outputs[said.Stream], said.Bytes...)
		case domain.FrameReport:
			report, err := wire.DecodeReport(said.Bytes)
			if err != nil {
				t.Error(err)
			}
			h.report = &report
		case domain.FrameExit:
			h.exited, h.success = true, said.Success
		}
	}
}

// judge uses the shell as its caller would, and holds what that is told to what has arrived.
func (c *cutShell) judge(t *testing.T, host *wsshell.HostShell, guestEnd *linkEnd) {
	var readers, writer sync.WaitGroup
	var got [domain.Streams][]byte
	var errs [domain.Streams]error
	read := func() {
		for stream, r := range map[domain.Stream]io.Reader{domain.Stdout: host.StdoutPipe(), domain.Stderr: host.StderrPipe()} {
			readers.Go(func() { got[stream], errs[stream] = io.ReadAll(r) })
		}
	}
	if !c.late {
		read()
	}
	writer.Go(func() {
		stdin := host.StdinPipe()
		n, err := stdin.Write(c.stdin)
		if err == nil && n != len(c.stdin) {
			t.Errorf("%d bytes of %d were written, %v", n, len(c.stdin), err)
		}
		_ = stdin.Close()
	})
	began := time.Now()
	result, err := host.Result(context.Background())
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if c.late {
		synctest.Wait()
		read()
	}
	writer.Wait()
	readers.Wait()
	h := parse(t, guestEnd.arrived())
	switch {
	case !h.exited:
		if result.Success || !errors.Is(err, domain.ErrNonFatalInternalError) {
			t.Errorf("without an exit the result is %+v, %v", result, err)
		}
	case err != nil || result.Success != h.success:
		t.Errorf("the exit said %v, the result is %+v, %v", h.success, result, err)
	case c.peers == cut2 && (result.Report == nil || *result.Report != c.report):
		t.Errorf("the report is %v", result.Report)
	}
	if c.after < 0 && !h.exited {
		t.Error("nothing was cut, and there is no exit")
	}
	for stream, sent := range map[domain.Stream][]byte{domain.Stdout: c.stdout, domain.Stderr: c.stderr} {
		if !bytes.HasPrefix(sent, got[stream]) || !bytes.Equal(got[stream], h.outputs[stream]) {
			t.Errorf("%s: %d bytes were read of %d that have arrived of %d", stream, len(got[stream]), len(h.outputs[stream]), len(sent))
		}
		switch whole := h.ended[stream] || h.exited; {
		case whole && errs[stream] != nil, !whole && !errors.Is(errs[stream], domain.ErrNonFatalInternalError):
			t.Errorf("%s, ended %v: %v", stream, whole, errs[stream])
		}
	}
}

// The library takes a message for whole whose sender died between two of its frames: the first two bytes of
// output were an output's end then, and half a report, or an exit, a lie.
func TestThreat25HalfAMessageIsNone(t *testing.T) {
	for name, first := range map[string][]byte{
		"output":     {byte(domain.FrameData), byte(domain.Stdout)},
		"more of it": {byte(domain.FrameData), byte(domain.Stdout), 'x', 'y'},
		"an exit":    {byte(domain.FrameExit), 0},
	} {
		for _, kind := range []cutKind{cutFIN, cutRST} {
			t.Run(fmt.Sprint(name, " ", kind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := attack(t, version2, domain.ShellSpec{})
					if err := a.sends(output(domain.Stdout, []byte("whole")), frame(opBinary|notLast, first...)); err != nil {
						t.Error(err)
					}
					a.conn.(*linkEnd).arm(0, kind)
					if got, err := io.ReadAll(a.host.StdoutPipe()); string(got) != "whole" || !errors.Is(err, domain.ErrNonFatalInternalError) {
						t.Errorf("the output is %q, %v", got, err)
					}
					if err := a.over(); err == nil {
						t.Error("its caller is told nothing")
					}
				})
			})
		}
	}
}
