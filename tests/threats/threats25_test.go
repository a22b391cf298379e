//go:build linux

package threats

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

func init() { register("cut shells", cutShells) }

// cutShell is what a guest says on a shell until it dies, which both sides work out from a seed.
type cutShell struct {
	said    []byte // whole
	cut     int    // bytes of it that go out
	reset   bool   // it dies with a reset
	success bool
	exit    int       // where the exit ends
	ends    [3]int    // where each output's end does; 0 is that it has none
	data    [3][]byte // all of each output
	marks   [3][]mark // where its messages end
}

// mark says that of an output so much has come once a message has, that ends there.
type mark struct{ at, bytes int }

// newCutShell makes one: output in messages of one frame or of several, as gorilla's websocket sends what is
// larger than its buffer; the streams' ends, or none, as where an old guest is aborted; an exit; a close frame.
func newCutShell(seed uint64) *cutShell {
	random := rand.New(rand.NewPCG(seed, 25))
	c := &cutShell{success: random.IntN(2) == 0, reset: random.IntN(2) == 0}
	for range random.IntN(12) {
		stream := domain.Stdout + domain.Stream(random.IntN(2))
		data := make([]byte, 1+random.IntN([]int{3, 200, 4000}[random.IntN(3)]))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		c.say(random, domain.Frame{Type: domain.FrameData, Stream: stream, Bytes: data})
		c.data[stream] = append(c.data[stream], data...)
		c.marks[stream] = append(c.marks[stream], mark{len(c.said), len(c.data[stream])})
	}
	if random.IntN(4) > 0 {
		for _, stream := range []domain.Stream{domain.Stderr, domain.Stdout} {
			c.said = append(c.said, output(stream, nil)...)
			c.ends[stream] = len(c.said)
		}
	}
	if random.IntN(2) == 0 {
		report := domain.Report{Reason: domain.ReasonExited, ExitCode: 1}
		if c.success {
			report.ExitCode = 0
		}
		c.say(random, domain.Frame{Type: domain.FrameReport, Bytes: wire.EncodeReport(report)}) // of no known type, in version 1
	}
	c.say(random, domain.Frame{Type: domain.FrameExit, Success: c.success})
	c.exit = len(c.said)
	c.said = append(c.said, closing(1000)...)
	if c.cut = random.IntN(len(c.said) + 1); random.IntN(2) == 0 {
		c.cut = min(c.exit-10+random.IntN(20), len(c.said))
	}
	c.cut = max(c.cut, 0)
	return c
}

// say adds a message, in pieces or whole, with a ping before it now and then.
func (c *cutShell) say(random *rand.Rand, f domain.Frame) {
	if random.IntN(4) == 0 {
		c.said = append(c.said, frame(opPing, 1, 2, 3)...)
	}
	payload, opcode := f.Append(nil), opBinary
	for random.IntN(2) == 0 && len(payload) > 1 {
		n := 1 + random.IntN(len(payload)-1)
		c.said = append(c.said, frame(opcode|notLast, payload[:n]...)...)
		payload, opcode = payload[n:], opContinuation
	}
	c.said = append(c.said, frame(opcode, payload...)...)
}

// arrived is what has come of an output: whole messages.
func (c *cutShell) arrived(stream domain.Stream) []byte {
	n := 0
	for _, m := range c.marks[stream] {
		if m.at <= c.cut {
			n = m.bytes
		}
	}
	return c.data[stream][:n]
}

// cutShells is a guest that dies in every shell that it is asked for: the seed is the shell's command.
func cutShells(r *raid) error {
	if r.Args["version"] == "2" {
		if err := r.hello("1", domain.FeatureShell2, domain.FeatureExec); err != nil {
			return err
		}
	}
	r.say("ready")
	for {
		s, err := r.shell()
		if r.over() {
			return nil
		}
		if err != nil {
			return err
		}
		seed, err := strconv.ParseUint(s.action.Command[0], 10, 64)
		if err != nil {
			return err
		}
		c := newCutShell(seed)
		if err := s.send(c.said[:c.cut]); err != nil {
			return err
		}
		if c.reset {
			if err := s.Conn.(*net.TCPConn).SetLinger(0); err != nil {
				return err
			}
		}
		s.Close()
		r.count("shells", 1)
	}
}

// CutShells has so many shells opened, one after the other.
type CutShells struct {
	Seed  uint64 // of the first
	Count int
}

// ShellCuts is what became of them.
type ShellCuts struct {
	Exits, Lost int      // shells whose exit came, and that were broken off before
	Wrong       []string // what should not be
}

// CutShells opens shells whose guest dies, and looks whether each tells what arrived, and nothing else.
func (h *Host) CutShells(cut CutShells, cuts *ShellCuts) error {
	for i := range uint64(cut.Count) {
		if err := h.cutShell(cut.Seed+i, cuts); err != nil {
			return fmt.Errorf("seed %d: %w", cut.Seed+i, err)
		}
	}
	return nil
}

func (h *Host) cutShell(seed uint64, cuts *ShellCuts) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	shell, err := h.services[0].Shell(ctx, metaservice.ShellSpec{Command: []string{strconv.FormatUint(seed, 10)}})
	if err != nil {
		return err
	}
	defer shell.Abort()
	c := newCutShell(seed)
	exited := c.exit <= c.cut
	wrong := func(format string, args ...any) {
		if len(cuts.Wrong) < 10 {
			cuts.Wrong = append(cuts.Wrong, fmt.Sprintf("seed %d, cut after %d of %d, the exit at %d, reset %t: ", seed, c.cut, len(c.said), c.exit, c.reset)+
				fmt.Sprintf(format, args...))
		}
	}
	var got [3][]byte
	var errs [3]error
	var reading sync.WaitGroup
	for stream, from := range map[domain.Stream]io.Reader{domain.Stdout: shell.StdoutPipe(), domain.Stderr: shell.StderrPipe()} {
		reading.Go(func() { got[stream], errs[stream] = io.ReadAll(from) })
	}
	reading.Wait()
	result, err := shell.Result(ctx)
	for _, stream := range []domain.Stream{domain.Stdout, domain.Stderr} {
		if want := c.arrived(stream); !bytes.Equal(got[stream], want) {
			wrong("%d bytes of %s were read, and %d came", len(got[stream]), stream, len(want))
		}
		if ended := c.ends[stream]; (errs[stream] == nil) != (exited || ended > 0 && ended <= c.cut) {
			wrong("%s ended with %v", stream, errs[stream])
		}
	}
	if exited {
		cuts.Exits++
	} else {
		cuts.Lost++
	}
	if (err == nil) != exited || result.Success != (exited && c.success) {
		wrong("the result is %t, %v", result.Success, err)
	}
	return nil
}

// Threat 25. A guest may die at any byte. What came by then counts, in whole messages: an exit that has come is
// never lost, and one that has not is never made up.
func TestThreat25CutMessages(t *testing.T) {
	t.Parallel()
	kills := often(300, 10_000)
	for _, version := range shellVersions {
		t.Run(version, func(t *testing.T) {
			h := startHost(t, HostSpec{})
			a := attack(t, h, "cut shells", map[string]string{"version": version})
			a.hears(t, "ready")
			seed := rand.Uint64()
			const atOnce = 100 // in one call, so that none takes long
			var all ShellCuts
			for done := 0; done < kills/2; done += atOnce {
				var cuts ShellCuts
				h.call(t, "CutShells", CutShells{Seed: seed + uint64(done), Count: min(atOnce, kills/2-done)}, &cuts)
				all.Exits += cuts.Exits
				all.Lost += cuts.Lost
				for _, wrong := range cuts.Wrong {
					t.Error(wrong)
				}
				if t.Failed() {
					break
				}
			}
			t.Logf("%d shells with an exit, %d without", all.Exits, all.Lost)
			if all.Exits < kills/40 || all.Lost < kills/40 {
				t.Error("that is not both kinds")
			}
			a.stdin.Close()
		})
	}
}
