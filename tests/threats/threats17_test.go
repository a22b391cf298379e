//go:build linux

package threats

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
)

func init() {
	register("shell frames", shellFrames)
	register("honest shell", honestShell)
}

// script is what a hostile guest sends on a shell: first, and then again and again, until the host hangs up.
type script struct {
	first [][]byte
	again []byte
	deaf  bool // it doesn't read what comes
	dumb  bool // it answers no ping
}

// scripts are all of them.
var scripts = merge(hugeHeaders, endlessFragments, emptyContinuations, emptyMessages, pingFloods,
	wrongCredit, silentGuests, stalledCloses)

func merge(all ...map[string]script) map[string]script {
	merged := make(map[string]script)
	for _, some := range all {
		maps.Copy(merged, some)
	}
	return merged
}

var (
	filler      = make([]byte, 64<<10)
	hugeHeaders = map[string]script{
		"a frame of 1 GiB":                {first: [][]byte{header(opBinary, 1<<30)}, again: filler},
		"a frame of 2^40 bytes":           {first: [][]byte{header(opBinary, 1<<40)}, again: filler},
		"a frame of -1 bytes":             {first: [][]byte{header(opBinary, math.MaxUint64)}, again: filler},
		"a continuation of 2^40 bytes":    {first: [][]byte{frame(opBinary|notLast, 0, 1), header(opContinuation, 1<<40)}, again: filler},
		"a ping of 1 GiB":                 {first: [][]byte{header(opPing, 1<<30)}, again: filler},
		"a close frame of 1 GiB":          {first: [][]byte{header(opClose, 1<<30)}, again: filler},
		"text of 1 GiB":                   {first: [][]byte{header(opText, 1<<30)}, again: filler},
		"output of one byte over a block": {first: [][]byte{output(domain.Stdout, make([]byte, domain.Shell2Message))}, again: filler},
	}
	endlessFragments = map[string]script{
		"fragments of 1 byte":   {first: [][]byte{frame(opBinary|notLast, 0, 1)}, again: bytes.Repeat(frame(opContinuation|notLast, 'x'), 1000)},
		"fragments of 1 KiB":    {first: [][]byte{frame(opBinary|notLast, 0, 1)}, again: bytes.Repeat(frame(opContinuation|notLast, make([]byte, 1<<10)...), 10)},
		"fragments of a window": {first: [][]byte{frame(opBinary|notLast, 0, 1)}, again: frame(opContinuation|notLast, filler...)},
	}
	emptyContinuations = map[string]script{
		"zero-length continuations":          {first: [][]byte{frame(opBinary|notLast, 0, 1, 'x')}, again: bytes.Repeat(frame(opContinuation|notLast), 1000)},
		"zero-length continuations, unread":  {first: [][]byte{frame(opBinary|notLast, 0, 1, 'x')}, again: bytes.Repeat(frame(opContinuation|notLast), 1000), deaf: true},
		"zero-length continuations of text":  {first: [][]byte{frame(opText | notLast)}, again: bytes.Repeat(frame(opContinuation|notLast), 1000)},
		"zero-length continuations of an ID": {first: [][]byte{frame(opBinary|notLast, 77)}, again: bytes.Repeat(frame(opContinuation|notLast), 1000)},
	}
	emptyMessages = map[string]script{
		"empty messages": {again: bytes.Repeat(frame(opBinary), 1000)},
		"empty texts":    {again: bytes.Repeat(frame(opText), 1000)},
	}
	pingFloods = map[string]script{
		"pings":                         {again: bytes.Repeat(frame(opPing), 1000)},
		"pings with a payload":          {again: bytes.Repeat(frame(opPing, make([]byte, 125)...), 100)},
		"pings whose pongs nobody has":  {again: bytes.Repeat(frame(opPing, make([]byte, 125)...), 100), deaf: true},
		"pongs":                         {again: bytes.Repeat(frame(opPong), 1000)},
		"messages of an unknown type":   {again: bytes.Repeat(frame(opBinary, 77), 1000)},
		"aborts":                        {again: bytes.Repeat(message(domain.Frame{Type: domain.FrameAbort}), 1000)},
		"acks of what was never sent":   {again: bytes.Repeat(ack(domain.Stdin, 1), 1000)},
		"ends of a stream, without end": {again: bytes.Repeat(output(domain.Stderr, nil), 1000)},
	}
)

// shellFrames connects a shell of either version and sends its script, as fast as the host takes it; or, with
// a pace, so many bytes a second, until the test ends it.
func shellFrames(r *raid) error {
	if r.Args["version"] == "2" {
		if err := r.hello("1", domain.FeatureShell2, domain.FeatureExec); err != nil {
			return err
		}
	}
	s, err := r.shell()
	if err != nil {
		return err
	}
	defer s.Close()
	what, ok := scripts[r.Args["script"]]
	if !ok {
		return fmt.Errorf("there is no script %q", r.Args["script"])
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		if !what.deaf {
			s.drain(!what.dumb)
		}
	}()
	begun := time.Now()
	err = s.send(what.first...)
	if pace := r.number("pace"); pace > 0 {
		const pieces = 50 // a second
		tick := time.NewTicker(time.Second / pieces)
		defer tick.Stop()
		for err == nil && !r.over() {
			<-tick.C
			n := pace / pieces
			n -= n % (len(what.again) / 1000) // whole frames
			r.count("sent", int64(n))
			err = s.send(what.again[:n])
		}
		r.took("held", time.Since(begun))
		return nil // the connection is cut with it
	}
	for err == nil && len(what.again) > 0 && !r.over() {
		r.count("sent", int64(len(what.again)))
		err = s.send(what.again)
	}
	r.took("held", time.Since(begun))
	<-read
	return nil
}

// honestShell runs a shell that says so many bytes, in pieces of a size, and ends it.
func honestShell(r *raid) error {
	if r.Args["version"] == "2" {
		if err := r.hello("1", domain.FeatureShell2, domain.FeatureExec); err != nil {
			return err
		}
	}
	s, err := r.shell()
	if err != nil {
		return err
	}
	defer s.Close()
	credit, more := int64(domain.ShellWindow), make(chan int64, 1<<10)
	go func() {
		defer close(more)
		for {
			f, err := s.next()
			if err != nil {
				return
			}
			if got, err := domain.ParseFrame(f.payload); err == nil && f.opcode == opBinary && got.Type == domain.FrameAck {
				more <- int64(got.Credit)
			}
		}
	}()
	block := make([]byte, r.number("piece"))
	for left := int64(r.number("bytes")); left > 0; {
		n := min(left, int64(len(block)))
		for credit < n {
			granted, ok := <-more
			if !ok {
				return errors.New("the host has hung up")
			}
			credit += granted
		}
		if err := s.send(output(domain.Stdout, block[:n])); err != nil {
			return err
		}
		credit -= n
		left -= n
	}
	if err := s.send(output(domain.Stdout, nil), output(domain.Stderr, nil), exit(true)); err != nil {
		return err
	}
	if err := s.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	for range more { // until the host has hung up, too
	}
	return nil
}

// cost is what a shell cost its host.
type cost struct {
	cpu        time.Duration
	read, peak int64
	done       ShellDone
	tally      Tally
}

// measured runs one shell against an attacker.
func measured(t *testing.T, h *host, attacker string, args map[string]string) cost {
	t.Helper()
	before := h.counts(t)
	a := attack(t, h, attacker, args)
	shell := h.open(t)
	reading := begin[ShellDone](t, h, "ReadShell", shell)
	done := h.waitShell(t, shell)
	within(t, time.Minute, "the output's end", reading)
	tally := a.wait(t)
	after := h.counts(t)
	return cost{cpu: after.CPU - before.CPU, read: after.Read - before.Read, done: done, tally: tally}
}

// watched is measured, with a look at the host's heap all the while.
func watched(t *testing.T, h *host, attacker string, args map[string]string) cost {
	t.Helper()
	var now int64
	h.call(t, "Watch", struct{}{}, &now)
	c := measured(t, h, attacker, args)
	c.peak = h.usage(t).Peak - now
	return c
}

var shellVersions = []string{"1", "2"}

// honest is the control run: a shell that says something in pieces of a size, or nothing, and ends as it should.
func honest(t *testing.T, h *host, version string, bytes, piece int) cost {
	t.Helper()
	control := measured(t, h, "honest shell", map[string]string{
		"version": version, "bytes": fmt.Sprint(bytes), "piece": fmt.Sprint(piece),
	})
	if control.done.failed() || !control.done.Success {
		t.Fatalf("the honest shell ended with %+v", control.done)
	}
	return control
}

// broken checks what the caller of a shell is told that its guest has broken off, or its host.
func broken(t *testing.T, done ShellDone, says string) {
	t.Helper()
	if done.Success || !done.is(metaservice.ErrNonFatalInternalError) || !strings.Contains(done.Text, says) {
		t.Errorf("the caller is told %q and %t, and not: %s", done.Text, done.Success, says)
	}
}

// Threat 17. A websocket frame may say that it has 2^63 bytes, and a message may go on for ever. Neither is
// read beyond the largest message that there is, nor held.
func TestThreat17WebsocketHugeHeader(t *testing.T) {
	t.Parallel()
	for _, version := range shellVersions {
		h := startHost(t, HostSpec{})
		control := watched(t, h, "honest shell", map[string]string{"version": version, "bytes": "0", "piece": "1"})
		for name := range merge(hugeHeaders, endlessFragments) {
			t.Run(name+"/"+version, func(t *testing.T) {
				c := watched(t, h, "shell frames", map[string]string{"version": version, "script": name})
				broken(t, c.done, "")
				t.Logf("%d bytes read, %d more in use at once; in the control run %d", c.read, c.peak, control.peak)
				most := int64(mostFlood) // where a fragment's header is longer than what it brings
				if _, whole := hugeHeaders[name]; whole {
					most = domain.Shell2Message + 8<<10
				}
				held := c.tally.Times["held"]
				if most := most + int64(max(held-2*time.Second, 0).Seconds()*mayCome); c.read > most {
					t.Errorf("the host has read %d bytes in %s, and not %d", c.read, held, most)
				}
				if c.peak > control.peak+1<<20 {
					t.Errorf("%d bytes were in use, and %d in the control run", c.peak, control.peak)
				}
			})
		}
	}
}

// talkatives are the control runs of floods, which all tests share, by the version of the shell.
var talkatives struct {
	sync.Mutex
	costs map[string]cost
}

// talkative is what an honest guest costs that says 64 KiB a byte at a time.
func talkative(t *testing.T, version string) cost {
	t.Helper()
	talkatives.Lock()
	defer talkatives.Unlock()
	if c, ok := talkatives.costs[version]; ok {
		return c
	}
	h := startHost(t, HostSpec{})
	honest(t, h, version, 0, 1)
	c := honest(t, h, version, 64<<10, 1)
	if talkatives.costs == nil {
		talkatives.costs = make(map[string]cost)
	}
	talkatives.costs[version] = c
	return c
}

// flooded checks that floods end their shells: within so many bytes, and at no more cost than an honest guest's
// that says 64 KiB a byte at a time.
func flooded(t *testing.T, floods map[string]script, says string, most int64) {
	t.Helper()
	for _, version := range shellVersions {
		h := startHost(t, HostSpec{})
		honest(t, h, version, 0, 1) // which warms it up
		control := talkative(t, version)
		for _, name := range slices.Sorted(maps.Keys(floods)) {
			t.Run(name+"/"+version, func(t *testing.T) {
				c := measured(t, h, "shell frames", map[string]string{"version": version, "script": name})
				t.Logf("%d bytes read, %s of processor time; the honest guest: %s", c.read, c.cpu, control.cpu)
				// On a machine that has so much else to do that the flood comes at hardly more than what may
				// come, it takes longer than 2 s to be one; where it comes at less, it never is.
				held := c.tally.Times["held"]
				told := says
				if float64(c.read) < held.Seconds()*mayCome {
					told = ""
				}
				broken(t, c.done, told)
				longer := max(held-2*time.Second, 0)
				if most := most + int64(longer.Seconds()*mayCome); c.read > most {
					t.Errorf("the host has read %d bytes in %s, and not %d", c.read, held, most)
				}
				if limit := control.cpu + 20*time.Millisecond + time.Duration(float64(control.cpu)*longer.Seconds()); c.cpu > limit {
					t.Errorf("it cost the host %s in %s, and the honest guest %s", c.cpu, held, control.cpu)
				}
				if limit := 2 * time.Second / 20; c.cpu > limit && !raceDetector {
					t.Errorf("it cost the host %s, more than a twentieth of a core for 2 s", c.cpu)
				}
			})
		}
	}
}

// dripped checks that a flood which keeps within the rate that is let through goes on, and costs less than a
// twentieth of a core more than a shell that is silent.
func dripped(t *testing.T, name string) {
	t.Helper()
	t.Run(name+", slowly", func(t *testing.T) {
		const lasts = time.Second
		var costs [2]time.Duration
		for i, pace := range []int{1, 60 << 10} { // of 1 byte a second comes none: whole frames
			h := startHost(t, HostSpec{})
			honest(t, h, "2", 0, 1)
			before := h.usage(t)
			a := attack(t, h, "shell frames", map[string]string{"version": "2", "script": name, "pace": fmt.Sprint(pace)})
			shell := h.open(t)
			waiting := begin[ShellDone](t, h, "WaitShell", shell)
			select {
			case done := <-waiting:
				t.Fatalf("the shell ended: %s", done.Text)
			case <-time.After(lasts):
			}
			costs[i] = h.usage(t).CPU - before.CPU
			tally := a.stop(t)
			within(t, time.Minute, "the shell's end", waiting)
			if sent := tally.Counts["sent"]; pace > 1 && sent < 10<<10 {
				t.Errorf("the guest has sent %d bytes", sent)
			}
		}
		t.Logf("%s of processor time; silent: %s", costs[1], costs[0])
		limit := lasts / 20
		if raceDetector {
			limit *= 10 // which is what it costs
		}
		if costs[1] > costs[0]+limit {
			t.Errorf("it cost the host %s in %s, and a silent shell %s", costs[1], lasts, costs[0])
		}
	})
}

// mayCome is what may come in a second beside what is of use, and mostFlood what a flood brings: what may come
// at once, in a message and in two seconds.
const (
	mayCome   = 64 << 10
	mostFlood = 64<<10 + domain.Shell2Message + 2*mayCome + 4<<10
)

// Threat 18. Frames that continue a message with nothing are in no count of its bytes: 40 million of them a
// second, for a core of the host's.
func TestThreat18EmptyContinuations(t *testing.T) {
	t.Parallel()
	flooded(t, emptyContinuations, "", mostFlood)
	dripped(t, "zero-length continuations")
}

// Threat 19. A message must say its type: the first that is empty ends its shell.
func TestThreat19EmptyMessages(t *testing.T) {
	t.Parallel()
	const firstRead = 8 << 10 // what is read at once, and the handshake
	flooded(t, emptyMessages, "invalid", firstRead)
}

// Threat 20. A host that answers 300,000 pings a second has no time for anything else.
func TestThreat20PingFlood(t *testing.T) {
	t.Parallel()
	flooded(t, pingFloods, "floods the connection", mostFlood)
	dripped(t, "pings")
}
