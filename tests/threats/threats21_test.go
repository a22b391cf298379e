//go:build linux

package threats

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
)

func init() {
	register("shells without acks", shellsWithoutAcks)
	register("shells over the window", shellsOverTheWindow)
	register("shells by script", shellsByScript)
}

// connected runs f on so many shells at once, each as soon as it is connected.
func (r *raid) connected(shells int, f func(*shellConn) error) error {
	var running sync.WaitGroup
	var mu sync.Mutex
	var errs error
	for range shells {
		s, err := r.shell()
		if err != nil {
			return err
		}
		running.Go(func() {
			defer s.Close()
			err := f(s)
			mu.Lock()
			defer mu.Unlock()
			errs = errors.Join(errs, err)
		})
	}
	running.Wait()
	return errs
}

// shellsWithoutAcks takes the input of shells and grants nothing for it; or grants all that may be, and doesn't
// read.
func shellsWithoutAcks(r *raid) error {
	deaf := r.Args["deaf"] != ""
	return r.connected(r.number("shells"), func(s *shellConn) error {
		if deaf {
			if err := s.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
				return err
			}
			if err := s.send(ack(domain.Stdin, domain.Shell2Window-domain.ShellWindow)); err != nil {
				return err
			}
			<-r.ctx.Done()
			return nil
		}
		defer context.AfterFunc(r.ctx, func() { s.Close() })()
		got := 0
		for {
			f, err := s.next()
			if err != nil { // the host has hung up
				return nil
			}
			if data, err := domain.ParseFrame(f.payload); err != nil || f.opcode != opBinary || data.Type != domain.FrameData {
				continue
			}
			n := len(f.payload) - domain.DataHead
			r.count("data", int64(n))
			if got += n; got == domain.ShellWindow {
				r.say("full")
			}
		}
	})
}

// Threat 21. A guest that grants nothing for what its host writes holds the writer up, by design. What is held
// for it is a block; and an Abort frees the writer at once, whoever doesn't read.
func TestThreat21NeverAckingShell(t *testing.T) {
	t.Parallel()
	const shells = 16
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf %t", deaf), func(t *testing.T) {
			h := startHost(t, HostSpec{})
			args := map[string]string{"shells": fmt.Sprint(shells)}
			if deaf {
				args["deaf"] = "1"
			}
			a := attack(t, h, "shells without acks", args)
			all := make([]int, shells)
			for i := range all {
				all[i] = h.open(t)
			}
			before := h.usage(t)
			var pours []<-chan ShellDone
			for _, shell := range all {
				pours = append(pours, begin[ShellDone](t, h, "PourShell", shell))
			}
			if deaf { // stuck is who writes no more
				last := before.Written
				eventually(t, "all are stuck", func() error {
					now := h.usage(t).Written
					moved := now - last
					last = now
					if moved != 0 || now == before.Written {
						return fmt.Errorf("%d bytes were written, %d just now", now, moved)
					}
					return nil
				})
			} else {
				for range shells {
					a.hears(t, "full")
				}
			}
			held := (h.usage(t).Heap - before.Heap) / shells
			if most := int64(domain.ShellWindow + domain.Shell2Message + 16<<10); held > most {
				t.Errorf("a shell that is stuck holds %d bytes, and not %d", held, most)
			}
			var took []time.Duration
			for _, shell := range all {
				var done ShellDone
				h.call(t, "AbortShell", shell, &done)
				took = append(took, done.Took)
				if done.failed() {
					t.Errorf("Abort: %q", done.Text)
				}
			}
			begun := time.Now()
			for i, shell := range all {
				poured := within(t, time.Minute, "the writer", pours[i])
				if freed := time.Since(begun); !poured.is(metaservice.ErrShellAborted) || freed > time.Second+slack {
					t.Errorf("the writer is told %q, after %s", poured.Text, freed)
				}
				if !deaf && poured.Bytes != domain.ShellWindow || poured.Bytes > domain.Shell2Window {
					t.Errorf("the writer has written %d bytes", poured.Bytes)
				}
				if ended := h.waitShell(t, shell); !ended.is(metaservice.ErrShellAborted) {
					t.Errorf("Wait: %q", ended.Text)
				}
			}
			slices.Sort(took)
			t.Logf("%d bytes held for each; Abort took %s, and %s at most", held, took[shells/2], took[shells-1])
			if took[shells/2] > time.Second {
				t.Errorf("Abort took %s", took)
			}
			tally := a.stop(t)
			if got := tally.Counts["data"]; !deaf && got != shells*domain.ShellWindow {
				t.Errorf("the guest got %d bytes, and it granted %d", got, shells*domain.ShellWindow)
			}
		})
	}
}

// wrongCredit is credit, and data, that can't be.
var wrongCredit = map[string]script{
	"credit of 4294967295":               {first: [][]byte{ack(domain.Stdin, 1<<32-1)}},
	"credit of 2147483648":               {first: [][]byte{ack(domain.Stdin, 1<<31), ack(domain.Stdin, 1<<31)}},
	"credit of 1 on top of 4194304":      {first: [][]byte{ack(domain.Stdin, 4<<20-64<<10), ack(domain.Stdin, 1)}},
	"credit for stdout":                  {first: [][]byte{ack(domain.Stdout, 1)}},
	"there is no stream 3":               {first: [][]byte{ack(3, 1)}},
	"there is no stream 255":             {first: [][]byte{output(255, []byte("x"))}},
	"data of stdin":                      {first: [][]byte{output(domain.Stdin, []byte("x"))}},
	"5 bytes of type 1":                  {first: [][]byte{frame(opBinary, 1, 0, 0, 0, 1)}},
	"7 bytes of type 1":                  {first: [][]byte{frame(opBinary, 1, 0, 0, 0, 0, 1, 0)}},
	"3 bytes of type 5":                  {first: [][]byte{frame(opBinary, 5, 0, 0)}},
	"data after the stream's end":        {first: [][]byte{output(domain.Stdout, nil), output(domain.Stdout, []byte("x"))}},
	"frame whose mask is wrong":          {first: [][]byte{{0x82, 1, 9}}},
	"opcodes that there aren't, and why": {first: [][]byte{frame(opBinary+1, 1)}},
}

// shellsOverTheWindow sends on each of its shells all that the host grants, then says so, and once it is told to
// a byte more.
func shellsOverTheWindow(r *raid) error {
	if r.Args["version"] == "2" {
		if err := r.hello("1", domain.FeatureShell2, domain.FeatureExec); err != nil {
			return err
		}
	}
	return r.connected(r.number("shells"), func(s *shellConn) error {
		credit, block := int64(domain.ShellWindow), make([]byte, domain.ShellBlock)
		r.count("granted", credit)
		for quiet := 0; quiet < 2; { // a grant goes out behind the pong, if not before
			for credit > 0 {
				n := min(credit, int64(len(block)))
				if err := s.send(output(domain.Stdout, block[:n])); err != nil {
					return err
				}
				credit -= n
			}
			if err := s.send(frame(opPing)); err != nil {
				return err
			}
			for pong := false; !pong; {
				f, err := s.next()
				if err != nil {
					return err
				}
				pong = f.opcode == opPong
				if got, err := domain.ParseFrame(f.payload); err == nil && f.opcode == opBinary && got.Type == domain.FrameAck {
					credit += int64(got.Credit)
					r.count("granted", int64(got.Credit))
				}
			}
			if quiet++; credit > 0 {
				quiet = 0
			}
		}
		r.say("full")
		<-r.ctx.Done()
		if err := s.send(output(domain.Stdout, []byte("x"))); err != nil {
			return err
		}
		s.drain(true)
		return nil
	})
}

// Threat 22. Credit that is more than there may be, and bytes that nobody granted, end the shell at the first;
// what is held until then is no more than was granted, and all shells of a guest share what that may be.
func TestThreat22OverAcking(t *testing.T) {
	t.Parallel()
	for _, version := range shellVersions {
		h := startHost(t, HostSpec{})
		for _, name := range slices.Sorted(maps.Keys(wrongCredit)) {
			t.Run(name+"/"+version, func(t *testing.T) {
				c := measured(t, h, "shell frames", map[string]string{"version": version, "script": name})
				says, _, _ := strings.Cut(name, "opcodes") // the library's own words
				broken(t, c.done, says)
				if c.read > 8<<10 || c.tally.Times["held"] > slack {
					t.Errorf("the host has read %d bytes, and held the guest for %s", c.read, c.tally.Times["held"])
				}
			})
		}
		t.Run("data over the window/"+version, func(t *testing.T) {
			const shells = 24
			h := startHost(t, HostSpec{})
			before := h.usage(t)
			a := attack(t, h, "shells over the window", map[string]string{"version": version, "shells": fmt.Sprint(shells)})
			all := make([]int, shells)
			for i := range all {
				all[i] = h.open(t)
			}
			for range shells {
				a.hears(t, "full")
			}
			held := h.usage(t).Heap - before.Heap
			a.stdin.Close()
			for _, shell := range all {
				broken(t, h.waitShell(t, shell), "were granted")
			}
			granted := a.wait(t).Counts["granted"]
			t.Logf("%d bytes were granted, %d are held", granted, held)
			budget := metaservice.Limits{}
			budget, _ = budget.WithDefaults()
			if least, most := int64(shells*domain.ShellWindow), budget.ShellBytes+shells*2*domain.ShellWindow; granted < least || granted > most {
				t.Errorf("%d bytes were granted, not from %d to %d", granted, least, most)
			}
			if held > granted+granted/8+shells*64<<10 {
				t.Errorf("%d bytes are held, and %d were granted", held, granted)
			}
		})
	}
}

var (
	closing = func(status uint16) []byte {
		return frame(opClose, binary.BigEndian.AppendUint16(nil, status)...)
	}
	silentGuests = map[string]script{
		"deaf, and silent":                        {deaf: true},
		"deaf, with pongs that nobody asked for":  {deaf: true, again: frame(opPong, []byte("17")...)},
		"deaf, with output of a byte":             {deaf: true, again: output(domain.Stdout, []byte("x"))},
		"deaf, with credit":                       {deaf: true, first: [][]byte{ack(domain.Stdin, 4<<20-64<<10)}},
		"dumb":                                    {dumb: true},
		"dumb, with empty pongs":                  {dumb: true, again: frame(opPong)},
		"dumb, with pings":                        {dumb: true, again: frame(opPing)},
		"dumb, with output of a byte":             {dumb: true, again: output(domain.Stdout, []byte("x"))},
		"dumb, and it takes input":                {dumb: true, first: [][]byte{ack(domain.Stdin, 4<<20-64<<10)}},
		"dumb, in the midst of a frame":           {dumb: true, first: [][]byte{header(opBinary, 100), []byte("abc")}},
		"dumb, in the midst of an output message": {dumb: true, first: [][]byte{frame(opBinary|notLast, 0, 1, 'x')}},
	}
	stalledCloses = map[string]script{
		"an exit, then silence":                  {first: [][]byte{exit(true)}},
		"an exit, unread":                        {first: [][]byte{ack(domain.Stdin, 4<<20-64<<10), exit(true)}, deaf: true},
		"an exit, then a frame of 2^40 bytes":    {first: [][]byte{exit(true), header(opBinary, 1<<40)}, again: []byte("x")},
		"an exit, then a piece of a frame":       {first: [][]byte{exit(true), {0x82}}},
		"an exit, then another":                  {first: [][]byte{exit(true)}, again: exit(false)},
		"an exit, then pings":                    {first: [][]byte{exit(true)}, again: frame(opPing)},
		"an exit, then output":                   {first: [][]byte{exit(true)}, again: output(domain.Stdout, []byte("x"))},
		"an exit and a close frame":              {first: [][]byte{exit(true), closing(1000)}},
		"an exit, a close frame, and pings":      {first: [][]byte{exit(true), closing(1000)}, again: frame(opPing)},
		"an exit and half a close frame":         {first: [][]byte{exit(true), closing(1000)[:3]}},
		"a close frame":                          {first: [][]byte{closing(1000)}},
		"a close frame, unread":                  {first: [][]byte{ack(domain.Stdin, 4<<20-64<<10), closing(1000)}, deaf: true},
		"a close frame, then one of 2^40 bytes":  {first: [][]byte{closing(1000), header(opClose, 1<<40)}, again: []byte("x")},
		"a close frame of a status there is not": {first: [][]byte{closing(1006)}},
	}
)

// shellsByScript runs a shell for each of so many scripts, which the commands of the shells name, all at once:
// what is said again is said ten times a second. It tells how long the host took to hang up.
func shellsByScript(r *raid) error {
	return r.connected(r.number("shells"), func(s *shellConn) error {
		name := s.action.Command[0]
		what, ok := scripts[name]
		if !ok {
			return fmt.Errorf("there is no script %q", name)
		}
		if what.deaf {
			if err := s.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
				return err
			}
		}
		begun, over := time.Now(), make(chan struct{})
		go func() {
			defer close(over)
			if what.deaf {
				<-r.ctx.Done()
				return
			}
			s.drain(!what.dumb)
			r.took(name, time.Since(begun))
		}()
		err := s.send(what.first...)
		tick := time.NewTicker(time.Second / 10)
		defer tick.Stop()
		for err == nil && len(what.again) > 0 {
			select {
			case <-tick.C:
				err = s.send(what.again)
			case <-over:
				return nil
			}
		}
		<-over
		return nil
	})
}

// played is what became of a script's shell, and of whoever wrote to it.
type played struct {
	done, poured ShellDone
	took         time.Duration
}

// playScripts runs scripts at once, with the host writing to all of them, and waits until nothing of them is left.
func playScripts(t *testing.T, limits metaservice.Limits, some map[string]script) map[string]played {
	t.Helper()
	h := startHost(t, HostSpec{Limits: limits})
	before := h.usage(t)
	a := attack(t, h, "shells by script", map[string]string{"shells": fmt.Sprint(len(some))})
	type waiting struct {
		done, poured <-chan ShellDone
		begun        time.Time
	}
	shells := make(map[string]waiting)
	for name := range some {
		begun := time.Now()
		shell := h.open(t, name)
		shells[name] = waiting{begin[ShellDone](t, h, "WaitShell", shell), begin[ShellDone](t, h, "PourShell", shell), begun}
	}
	all := make(map[string]played)
	for name, shell := range shells {
		p := played{done: within(t, time.Minute, name, shell.done)}
		p.poured = within(t, time.Minute, "the writer of "+name, shell.poured)
		p.took = p.done.Took
		all[name] = p
	}
	eventually(t, "nothing of the shells is left", func() error {
		if now := h.usage(t); now.Open > 0 || now.Goroutines > before.Goroutines || now.FDs > before.FDs {
			return fmt.Errorf("%d connections, %d goroutines and %d files, of %d and %d before",
				now.Open, now.Goroutines, now.FDs, before.Goroutines, before.FDs)
		}
		return nil
	})
	tally := a.stop(t)
	for name, p := range all {
		if took, ok := tally.Times[name]; ok { // or it was deaf
			p.took = took
			all[name] = p
		}
	}
	return all
}

// Threat 23. A guest that answers no ping of ours is given up, whatever else it says, and whether it reads or
// not: by itself it would hold its shell for ever.
func TestThreat23NeverReadingShell(t *testing.T) {
	t.Parallel()
	const silence = 3 * time.Second
	for name, p := range playScripts(t, metaservice.Limits{Silence: silence, Hold: time.Second}, silentGuests) {
		broken(t, p.done, "")
		if !p.poured.failed() {
			t.Errorf("%s: its writer is told nothing", name)
		}
		if p.done.Took < silence-time.Second || p.done.Took > silence+slack || p.took > silence+slack {
			t.Errorf("%s: the caller waited for %s, the guest was held for %s", name, p.done.Took, p.took)
		}
	}
}

// Threat 24. A guest that has said its exit, or its close, has 2 s to hang up. The library's own Close waits
// without limit.
func TestThreat24StalledClose(t *testing.T) {
	t.Parallel()
	for name, p := range playScripts(t, metaservice.Limits{}, stalledCloses) {
		if exited := strings.HasPrefix(name, "an exit"); exited != p.done.Success || exited == p.done.failed() {
			t.Errorf("%s: the caller is told %t, %q", name, p.done.Success, p.done.Text)
		}
		if !p.poured.failed() {
			t.Errorf("%s: its writer is told nothing", name)
		}
		if p.done.Took > 2*time.Second+slack || p.took > 2*time.Second+slack {
			t.Errorf("%s: the caller waited for %s, the guest was held for %s", name, p.done.Took, p.took)
		}
	}
}
