package wsshell_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// What no peer may send ends the shell at once, and its caller is told what it was.
func TestThreats17To22WhatCantBeEndsTheShellAtOnce(t *testing.T) {
	end := output(domain.Stdout, nil)
	block := bytes.Repeat([]byte("x"), 16<<10)
	var window [][]byte
	for range 4 {
		window = append(window, output(domain.Stdout, block))
	}
	report := func(json string) []byte { return frame(opBinary, append([]byte{byte(domain.FrameReport)}, json...)...) }
	tests := map[string]struct {
		frames [][]byte
		says   string
		only2  bool
	}{
		"17 a frame of 1 GiB":                 {frames: [][]byte{header(opBinary, 1<<30), block, block, block, block, block, block, block, block, block}, says: "it has more than"},
		"17 a frame of 2^40 bytes":            {frames: [][]byte{header(opBinary, 1<<40), block, block, block, block, block, block, block, block, block}, says: "it has more than"},
		"17 a frame of -1 bytes":              {frames: [][]byte{append([]byte{0x82, 0xff}, bytes.Repeat([]byte{0xff}, 12)...), block}},
		"17 a continuation of nothing":        {frames: [][]byte{frame(opContinuation, 1, 2, 3)}},
		"17 a message within another":         {frames: [][]byte{frame(opBinary|notLast, 0), frame(opBinary, 1)}},
		"17 a ping of 1 GiB":                  {frames: [][]byte{header(opPing, 1<<30)}},
		"17 a ping in two frames":             {frames: [][]byte{frame(opPing|notLast, 1)}},
		"17 an opcode that there isn't":       {frames: [][]byte{frame(opBinary+1, 1)}},
		"17 a frame without a mask":           {frames: [][]byte{frame(opBinary|unmasked, 9)}, says: "whose mask is wrong"},
		"17 a frame with a reserved bit":      {frames: [][]byte{append([]byte{0xc2}, frame(opBinary, 9)[1:]...)}},
		"19 an empty message":                 {frames: [][]byte{frame(opBinary)}, says: "it is empty"},
		"19 an empty text":                    {frames: [][]byte{frame(opText)}, says: "it is text"},
		"19 text":                             {frames: [][]byte{frame(opText, []byte("\x1b[31mred")...)}, says: "it is text"},
		"22 an ack of 4 GiB":                  {frames: [][]byte{ack(domain.Stdin, 1<<32-1)}, says: "credit of 4294967295"},
		"22 acks of 4 MiB and one":            {frames: [][]byte{ack(domain.Stdin, 4<<20-64<<10), ack(domain.Stdin, 1)}, says: "credit of 1 on top of 4194304"},
		"22 acks whose sum is 0 in 32 bits":   {frames: [][]byte{ack(domain.Stdin, 1<<31), ack(domain.Stdin, 1<<31)}, says: "credit of 2147483648"},
		"22 an ack of an output":              {frames: [][]byte{ack(domain.Stdout, 1)}, says: "credit for stdout"},
		"22 an ack of stream 3":               {frames: [][]byte{ack(3, 1)}, says: "there is no stream 3"},
		"22 an ack that is too short":         {frames: [][]byte{frame(opBinary, 1, 0, 0, 0, 1)}, says: "5 bytes of type 1"},
		"22 an ack that is too long":          {frames: [][]byte{frame(opBinary, 1, 0, 0, 0, 0, 1, 0)}, says: "7 bytes of type 1"},
		"22 data of the input":                {frames: [][]byte{output(domain.Stdin, []byte("x"))}, says: "data of stdin"},
		"22 the end of the input":             {frames: [][]byte{output(domain.Stdin, nil)}, says: "an end of stdin"},
		"22 data of stream 255":               {frames: [][]byte{output(255, []byte("x"))}, says: "there is no stream 255"},
		"22 data of no stream":                {frames: [][]byte{frame(opBinary, 0)}, says: "1 bytes of type 0"},
		"22 data after the stream's end":      {frames: [][]byte{end, output(domain.Stdout, []byte("x"))}, says: "after the stream's end"},
		"22 an exit of one byte":              {frames: [][]byte{frame(opBinary, 5)}, says: "1 bytes of type 5"},
		"22 an exit of three bytes":           {frames: [][]byte{frame(opBinary, 5, 0, 0)}, says: "3 bytes of type 5"},
		"22 an exit of 2":                     {frames: [][]byte{frame(opBinary, 5, 2)}, says: "of type 5"},
		"22 a report that is none":            {frames: [][]byte{report("{\x1b")}, says: "invalid", only2: true},
		"22 a report of a reason that is not": {frames: [][]byte{report(`{"exitCode":0,"signal":"","reason":"\u001b[31m","message":""}`)}, says: "the reason is", only2: true},
		"22 an exit that contradicts its report": {frames: [][]byte{
			report(`{"exitCode":3,"signal":"","reason":"exited","message":"\u001b[31m"}`), exit(true),
		}, says: "contradicts its report", only2: true},
		"22 a failure that contradicts its report": {frames: [][]byte{
			report(`{"exitCode":0,"signal":"","reason":"exited","message":""}`), exit(false),
		}, says: "contradicts its report", only2: true},
		"25 a close frame without an exit":       {frames: [][]byte{closing(1000)}, says: "closed it with status 1000"},
		"25 a close frame with words":            {frames: [][]byte{frame(opClose, append([]byte{0x03, 0xe8}, "\x1b[31mred"...)...)}, says: "closed it with status 1000"},
		"25 a close frame of one byte":           {frames: [][]byte{frame(opClose, 0x1b)}},
		"25 a close frame whose status can't be": {frames: [][]byte{closing(1006)}},
	}
	for name, test := range tests {
		for version, features := range versions {
			if test.only2 && features == nil {
				continue
			}
			t.Run(name+"/"+version, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := attack(t, features, domain.ShellSpec{})
					a.reads(true)
					began := time.Now()
					_ = a.sends(test.frames...) // the host may have hung up before the last of them
					err := a.over()
					if took := time.Since(began); took > 0 {
						t.Errorf("it took %s", took)
					}
					if err == nil || !strings.Contains(err.Error(), test.says) {
						t.Errorf("the caller is told %v, and not: %s", err, test.says)
					}
				})
			})
		}
	}
	for version, features := range versions {
		t.Run("22 data over the window/"+version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := attack(t, features, domain.ShellSpec{})
				a.theirs.link.mu.Lock()
				a.theirs.in.room = 64 << 20
				a.theirs.link.mu.Unlock()
				a.reads(true)
				for range 64 << 20 / len(block) {
					if a.sends(window[0]) != nil {
						break
					}
				}
				synctest.Wait()
				err := a.over()
				if !errors.Is(err, domain.ErrFlow) || !strings.Contains(err.Error(), "were granted") {
					t.Errorf("the caller is told %v", err)
				}
			})
		})
	}
}

// A message in endless fragments is one that is too large.
func TestThreat17FragmentsWithoutEnd(t *testing.T) {
	for version, features := range versions {
		for _, size := range []int{1, 1000, 16 << 10} {
			t.Run(fmt.Sprint(version, " ", size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := attack(t, features, domain.ShellSpec{})
					a.reads(true)
					err, sent := a.sends(frame(opBinary|notLast, 0, 1)), 0
					fragment := frame(opContinuation|notLast, make([]byte, size)...)
					for ; err == nil && sent < 1<<30; sent += size {
						err = a.sends(fragment)
					}
					if sent > 1<<20 {
						t.Errorf("the host has taken %d bytes", sent)
					}
					a.over()
				})
			})
		}
	}
}

// Pieces of a message in which there is nothing change nothing of it, wherever they stand; where there is no
// message, they are as wrong as any.
func TestThreat18EmptyPiecesAreNothing(t *testing.T) {
	empty := frame(opContinuation | notLast)
	for version, features := range versions {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := attack(t, features, domain.ShellSpec{})
				a.reads(true)
				err := a.sends(frame(opBinary|notLast), empty, frame(opContinuation|notLast, 0, 1, 'x'), empty, empty, frame(opPing), empty,
					frame(opContinuation, 'y'), output(domain.Stdout, []byte("z")),
					frame(opBinary|notLast, 0, 1), empty, frame(opContinuation), output(domain.Stderr, nil), exit(true))
				if err != nil {
					t.Error(err)
				}
				got, err := io.ReadAll(a.host.StdoutPipe())
				if string(got) != "xyz" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
				if success, err := a.host.Wait(); !success || err != nil {
					t.Errorf("the result is %t, %v", success, err)
				}
				a.conn.Close()
				<-a.served
			})
			synctest.Test(t, func(t *testing.T) {
				a := attack(t, features, domain.ShellSpec{})
				a.reads(true)
				if err := a.sends(output(domain.Stdout, []byte("x")), empty); err != nil {
					t.Error(err)
				}
				a.over()
			})
		})
	}
}

// floods are what costs a guest little to send, and is of no use.
var floods = map[string]struct {
	begin, frame []byte
	answer       bool // the guest reads what comes of it
}{
	"18 zero-length continuations":      {begin: frame(opBinary|notLast, 0, 1, 'x'), frame: frame(opContinuation | notLast), answer: true},
	"20 pings":                          {frame: frame(opPing), answer: true},
	"20 pings with a payload":           {frame: frame(opPing, make([]byte, 125)...), answer: true},
	"20 pings whose pongs nobody reads": {frame: frame(opPing, make([]byte, 125)...)},
	"20 pongs":                          {frame: frame(opPong), answer: true},
	"20 messages of an unknown type":    {frame: frame(opBinary, 77), answer: true},
	"20 aborts":                         {frame: message(domain.Frame{Type: domain.FrameAbort}), answer: true},
	"20 sizes":                          {frame: message(domain.Frame{Type: domain.FrameSize, Columns: 1, Rows: 1}), answer: true},
	"20 ends of a stream":               {frame: output(domain.Stderr, nil), answer: true},
	"22 acks of nothing":                {frame: ack(domain.Stdin, 0), answer: true},
	"22 acks of what wasn't sent":       {frame: ack(domain.Stdin, 1), answer: true},
}

// What is of no use is counted, and more of it than a little ends the shell, within 2 s at any rate that
// costs anything.
func TestThreats18To20AFloodEndsTheShell(t *testing.T) {
	for name, flood := range floods {
		for version, features := range versions {
			t.Run(name+"/"+version, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := attack(t, features, domain.ShellSpec{})
					if flood.answer {
						a.reads(true)
					}
					began, sent := time.Now(), 0
					err := a.sends(flood.begin)
					some := bytes.Repeat(flood.frame, 4<<10/len(flood.frame))
					for ; err == nil && sent < 16<<20; sent += len(some) {
						err = a.sends(some)
						synctest.Wait() // the host keeps up
					}
					err = a.over()
					if took := time.Since(began); took > 2*time.Second {
						t.Errorf("it took %s", took)
					}
					if sent > socketRoom+256<<10 {
						t.Errorf("the host took %d bytes", sent)
					}
					if !strings.Contains(err.Error(), "floods the connection") {
						t.Errorf("the caller is told %v", err)
					}
				})
			})
		}
	}
}

// The same, a few of them a second: a guest that is odd, and does no harm.
func TestThreats18To20ALittleOfItIsFine(t *testing.T) {
	for name, flood := range floods {
		if !flood.answer || flood.begin != nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := attack(t, version2, domain.ShellSpec{})
				a.reads(true)
				for range 10 * 600 { // ten minutes
					if err := a.sends(flood.frame); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second / 10)
				}
				if err := a.sends(exit(true)); err != nil {
					t.Error(err)
				}
				if success, err := a.host.Wait(); !success || err != nil {
					t.Errorf("the result is %v, %v", success, err)
				}
				a.conn.Close()
				<-a.served
			})
		})
	}
}

// Bytes of use, one to a message, pay for themselves and not for a flood between them.
func TestThreat23MessagesOfOneByteHideNoFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := attack(t, version2, domain.ShellSpec{})
		a.reads(true)
		go io.Copy(io.Discard, a.host.StdoutPipe())
		one, pings := output(domain.Stdout, []byte("x")), bytes.Repeat(frame(opPing), 20)
		var err error
		sent := 0
		for ; err == nil && sent < 64<<20; sent += len(one) + len(pings) {
			if err = a.sends(one, pings); sent%100 == 0 {
				synctest.Wait()
			}
		}
		if err := a.over(); !strings.Contains(err.Error(), "floods the connection") || sent > 2<<20 {
			t.Errorf("after %d bytes the caller is told %v", sent, err)
		}
	})
}

func TestThreat23MessagesOfOneByteArrive(t *testing.T) {
	for version, features := range versions {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := attack(t, features, domain.ShellSpec{})
				a.reads(true)
				const size = 60 << 10 // what needs no credit
				want := random(size)
				go func() {
					var all []byte
					for i := range want {
						all = append(all, output(domain.Stdout, want[i:i+1])...)
					}
					_ = a.sends(all, output(domain.Stdout, nil), exit(true))
				}()
				got, err := io.ReadAll(a.host.StdoutPipe())
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes of %d came, %v", len(got), len(want), err)
				}
				if success, err := a.host.Wait(); !success || err != nil {
					t.Errorf("%v, %v", success, err)
				}
				a.conn.Close()
				<-a.served
			})
		})
	}
}

// A guest that takes no input holds its writer up, until somebody ends it: one that doesn't grant credit, and
// one that doesn't even read.
func TestThreat21AbortFreesAStuckWriter(t *testing.T) {
	for _, reading := range []bool{true, false} {
		t.Run(fmt.Sprintf("reading %v", reading), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := attack(t, version2, domain.ShellSpec{})
				if reading {
					a.reads(true)
				} else if err := a.sends(ack(domain.Stdin, 1<<20)); err != nil { // more than a socket holds
					t.Error(err)
				}
				synctest.Wait()
				type wrote struct {
					n   int
					err error
				}
				written := make(chan wrote, 1)
				go func() {
					n, err := a.host.StdinPipe().Write(make([]byte, 8<<20))
					written <- wrote{n, err}
				}()
				time.Sleep(10 * time.Second)
				select {
				case w := <-written:
					t.Fatalf("it has been written: %d, %v", w.n, w.err)
				default:
				}
				began := time.Now()
				if err := a.host.Abort(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("Abort took %s", took)
				}
				if _, err := a.host.Wait(); err != domain.ErrShellAborted {
					t.Errorf("Wait: %v", err)
				}
				w := <-written
				took, bound := time.Since(began), 100*time.Millisecond
				if !reading {
					bound = time.Second // for the abort to get out
				}
				if took > bound || w.err != domain.ErrShellAborted || w.n > 1<<20+64<<10 {
					t.Errorf("%d bytes were written, %v, after %s", w.n, w.err, took)
				}
				<-a.served
				if took := time.Since(began); took > 6*time.Second {
					t.Errorf("it was over %s after Abort", took)
				}
			})
		})
	}
}

// A guest that is told to abort its shell may take its time for that, and have output to get rid of meanwhile. Its
// host's acks of it came after the second in which the abort had to get out: they failed, and the guest was cut off.
func TestAnAbortedGuestMayGoOn(t *testing.T) {
	for version, features := range versions {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := attack(t, features, domain.ShellSpec{})
				frames := a.reads(true)
				if err := a.host.Abort(); err != nil {
					t.Error(err)
				}
				began, some := time.Now(), make([]byte, 1<<10)
				for time.Since(began) < abortLinger-time.Second/2 {
					if err := a.sends(output(domain.Stdout, some)); err != nil {
						t.Fatalf("after %s: %v", time.Since(began), err)
					}
					time.Sleep(time.Second / 10)
				}
				if err := a.sends(exit(false)); err != nil {
					t.Error(err)
				}
				<-a.served
				if took := time.Since(began); took > abortLinger {
					t.Errorf("it was over after %s", took)
				}
				if _, err := a.host.Wait(); err != domain.ErrShellAborted {
					t.Errorf("Wait: %v", err)
				}
				a.conn.Close()
				credit := 0
				for _, f := range <-frames {
					if got, err := domain.ParseFrame(f.payload); f.opcode == opBinary && err == nil && got.Type == domain.FrameAck {
						credit += int(got.Credit)
					}
				}
				if credit < 32<<10 {
					t.Errorf("it was granted %d bytes for what it went on with", credit)
				}
			})
		})
	}
}

// abortLinger is for how long an aborted shell's guest may say that it has ended it.
const abortLinger = 6 * time.Second

// A guest that doesn't read is given up, whatever it says meanwhile; so is one that answers no ping of ours,
// however many it answers that nobody sent.
func TestThreat23AGuestThatIsNotThereIsGivenUp(t *testing.T) {
	for name, said := range map[string][]byte{
		"nothing":          nil,
		"pongs":            frame(opPong, []byte("17")...),
		"empty pongs":      frame(opPong),
		"pings":            frame(opPing),
		"output":           output(domain.Stdout, []byte("x")),
		"an unknown type":  frame(opBinary, 77),
		"a piece of frame": nil,
	} {
		for _, reading := range []bool{true, false} {
			for _, writing := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, reading %v, host writing %v", name, reading, writing), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						a := attack(t, version2, domain.ShellSpec{})
						began := time.Now()
						if reading {
							a.reads(false)
						}
						if name == "a piece of frame" {
							_ = a.sends(header(opBinary, 100), []byte("abc"))
						}
						if writing {
							_ = a.sends(ack(domain.Stdin, 1<<20))
							go a.host.StdinPipe().Write(make([]byte, 8<<20))
						}
						go io.Copy(io.Discard, a.host.StdoutPipe())
						var saying sync.WaitGroup
						saying.Go(func() {
							for said != nil && a.sends(said) == nil {
								time.Sleep(time.Second)
							}
						})
						if err := a.over(); err == nil {
							t.Error("its caller is told nothing")
						}
						if took := time.Since(began); took > 60*time.Second {
							t.Errorf("it took %s", took)
						}
						a.conn.Close()
						saying.Wait()
					})
				})
			}
		}
	}
}

// A guest that has said its exit, or its close, has 2 s to hang up, whatever else it says or does.
func TestThreat24AStalledCloseIsCut(t *testing.T) {
	for name, test := range map[string]struct {
		frames [][]byte
		then   []byte // again and again
		closes bool   // the shell is over with it
	}{
		"silence":                       {frames: [][]byte{exit(true)}},
		"a frame of 2^40 bytes":         {frames: [][]byte{exit(true), header(opBinary, 1<<40)}},
		"a piece of a frame":            {frames: [][]byte{exit(true), {0x82}}},
		"another exit":                  {frames: [][]byte{exit(true)}, then: exit(false)},
		"pings":                         {frames: [][]byte{exit(true)}, then: frame(opPing)},
		"output":                        {frames: [][]byte{exit(true)}, then: output(domain.Stdout, []byte("x"))},
		"a close frame":                 {frames: [][]byte{exit(true), closing(1000)}, closes: true},
		"a close frame, and more":       {frames: [][]byte{exit(true), closing(1000)}, then: frame(opPing), closes: true},
		"a close frame without an exit": {frames: [][]byte{closing(1000)}, closes: true},
		"half a close frame":            {frames: [][]byte{exit(true), closing(1000)[:3]}},
	} {
		for _, writing := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, host writing %v", name, writing), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := attack(t, version2, domain.ShellSpec{})
					go io.Copy(io.Discard, a.host.StdoutPipe())
					wrote := make(chan struct{})
					if writing { // and stuck in it: the guest doesn't read
						_ = a.sends(ack(domain.Stdin, 1<<20))
						synctest.Wait()
						go func() {
							a.host.StdinPipe().Write(make([]byte, 8<<20))
							close(wrote)
						}()
						synctest.Wait()
					} else {
						close(wrote)
					}
					began := time.Now()
					if err := a.sends(test.frames...); err != nil {
						t.Error(err)
					}
					var saying sync.WaitGroup
					saying.Go(func() {
						for test.then != nil && a.sends(test.then) == nil {
							time.Sleep(time.Second / 2)
						}
					})
					<-a.served
					<-wrote
					took := time.Since(began)
					if took > 2100*time.Millisecond || test.closes && !writing && took > 0 {
						t.Errorf("it took %s", took)
					}
					if !a.theirs.isClosed() {
						t.Error("the connection is open still")
					}
					success, err := a.host.Wait()
					if exited := name != "a close frame without an exit"; success != exited || exited != (err == nil) {
						t.Errorf("the result is %v, %v", success, err)
					}
					a.conn.Close()
					saying.Wait()
				})
			})
		}
	}
}

// The first exit counts, and the last report before it.
func TestExitsAndReportsThatAreSaidTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := attack(t, version2, domain.ShellSpec{})
		a.reads(true)
		say := func(r domain.Report) []byte {
			data, err := json.Marshal(map[string]any{"exitCode": r.ExitCode, "signal": r.Signal, "reason": r.Reason, "message": r.Message})
			if err != nil {
				t.Fatal(err)
			}
			return message(domain.Frame{Type: domain.FrameReport, Bytes: data})
		}
		first := domain.Report{Reason: domain.ReasonExited}
		second := domain.Report{ExitCode: 3, Reason: domain.ReasonExited, Message: strings.Repeat("\x1b[31m", 10<<10)} // 100 KiB on the wire
		err := a.sends(say(first), say(second), exit(false), say(first), exit(true))
		if err != nil {
			t.Error(err)
		}
		a.conn.Close()
		<-a.served
		result, err := a.host.Result(t.Context())
		if err != nil || result.Success || result.Report == nil || result.Report.ExitCode != 3 {
			t.Fatalf("the result is %+v, %v", result, err)
		}
		if len(result.Report.Message) > 2048 {
			t.Errorf("its message has %d bytes", len(result.Report.Message))
		}
		readable(t, result.Report.String())
	})
}

// A message of type 6 is one of version 2: with version 1 it is of an unknown type.
func TestAReportOfVersion1IsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := attack(t, nil, domain.ShellSpec{})
		a.reads(true)
		if err := a.sends(frame(opBinary, 6, '{'), frame(opBinary, append([]byte{6}, `{"exitCode":3,"reason":"exited"}`...)...), exit(true)); err != nil {
			t.Error(err)
		}
		a.conn.Close()
		<-a.served
		if result, err := a.host.Result(t.Context()); err != nil || !result.Success || result.Report != nil {
			t.Errorf("the result is %+v, %v", result, err)
		}
	})
}

// Nothing follows the host's close frame, and there is one.
func TestTheHostsCloseFrameIsItsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			a := attack(t, version2, domain.ShellSpec{})
			frames := a.reads(true)
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				for {
					if _, err := a.host.StdinPipe().Write([]byte("x")); err != nil {
						return
					}
				}
			}()
			if err := a.sends(ack(domain.Stdin, 1<<20), exit(true), closing(1000)); err != nil {
				t.Error(err)
			}
			<-a.served
			<-wrote
			all := <-frames
			at := slices.IndexFunc(all, func(f received) bool { return f.opcode == opClose })
			if at != len(all)-1 {
				t.Errorf("the close frame is number %d of %d", at, len(all))
			}
			a.conn.Close()
		}
	})
}

// I8: a ping came while a block was being written to a guest that didn't read. The library waited for its turn
// to answer, on the goroutine that reads, and after 5 s dropped all that had been received, the exit with it.
func TestAPongThatCantBeWrittenLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := attack(t, version2, domain.ShellSpec{})
		want := random(100_000)
		if err := a.sends(ack(domain.Stdin, 1<<20)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		go a.host.StdinPipe().Write(make([]byte, 1<<20)) // more than the socket holds
		synctest.Wait()
		go func() {
			_ = a.sends(frame(opPing, 1), output(domain.Stdout, want[:50_000]))
			time.Sleep(6 * time.Second)
			_ = a.sends(frame(opPing, 2), output(domain.Stderr, want[50_000:]), exit(true))
		}()
		for stream, want := range map[io.Reader][]byte{a.host.StdoutPipe(): want[:50_000], a.host.StderrPipe(): want[50_000:]} {
			if got, err := io.ReadAll(stream); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d came, %v", len(got), len(want), err)
			}
		}
		if success, err := a.host.Wait(); !success || err != nil {
			t.Errorf("the result is %v, %v", success, err)
		}
		<-a.served
	})
}

// A guest that stops for a while, such as a virtual machine that is moved, is the same one when it goes on.
func TestAGuestMayStopForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := attack(t, version2, domain.ShellSpec{})
		if err := a.sends(ack(domain.Stdin, 1<<20)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		written := make(chan error, 1)
		go func() {
			_, err := a.host.StdinPipe().Write(make([]byte, 1<<20))
			written <- err
		}()
		time.Sleep(25 * time.Second) // the host's pings come due meanwhile
		frames := a.reads(true)
		if err := <-written; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if err := a.sends(frame(opPing, 1, 2, 3), exit(true)); err != nil {
			t.Error(err)
		}
		if success, err := a.host.Wait(); !success || err != nil {
			t.Errorf("the result is %v, %v", success, err)
		}
		<-a.served
		a.conn.Close()
		if !slices.ContainsFunc(<-frames, func(f received) bool { return f.opcode == opPong && bytes.Equal(f.payload, []byte{1, 2, 3}) }) {
			t.Error("its ping was never answered")
		}
	})
}
