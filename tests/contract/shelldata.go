package contract

import (
	"bufio"
	"bytes"
	"io"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
)

var shellData = map[string]func(shellTest){
	"bytes come back as they went":           shellRoundTrip,
	"a terminal passes them, too":            shellTerminalTrip,
	"what was sent is there after the end":   eitherWay(shellReadLate),
	"one output stands, all else goes on":    shellOneStands,
	"an output that nobody wants":            shellUnwanted,
	"an output that is closed while it runs": shellClosedAmid,
	"the input's end":                        shellInputEnds,
	"an input that is left open":             shellInputStays,
	"no input":                               shellNoInput,
	"many at once":                           shellCrowd,
}

// feed writes all of data beside the test, in pieces of many sizes, and ends the input.
func (s shellTest) feed(to io.WriteCloser, data []byte, end bool) (fed chan struct{}) {
	fed = make(chan struct{})
	go func() {
		defer close(fed)
		for size := 1; len(data) > 0; size = size*3%(300<<10) + 1 {
			n, err := to.Write(data[:min(size, len(data))])
			if err != nil {
				s.Errorf("the input, with %d bytes to go: %v", len(data), err)
				return
			}
			data = data[n:]
		}
		if !end {
			return
		}
		if err := to.Close(); err != nil {
			s.Errorf("the input's end: %v", err)
		}
	}()
	return fed
}

func shellRoundTrip(s shellTest) {
	volume := s.Volume
	if volume == 0 {
		volume = 42 << 20
	}
	for script, size := range map[string]int{scriptCat: volume, scriptCatErr: volume / 10} {
		data := randomBytes(s.T, size)
		shell := s.open(script, false)
		fed := s.feed(shell.StdinPipe(), data, true)
		out, errOut := s.wantEnd(shell, 0)
		<-fed
		if script == scriptCatErr {
			out, errOut = errOut, out
		}
		if !bytes.Equal(out, data) || len(errOut) > 0 {
			s.Errorf("%s: of %d bytes %d came back, or others, and %d on the other stream", script, size, len(out), len(errOut))
		}
	}
}

func shellTerminalTrip(s shellTest) {
	data := randomBytes(s.T, 3<<20+7)
	shell := s.open(scriptRaw, true)
	output := bufio.NewReader(shell.StdoutPipe())
	if line, err := output.ReadString('\n'); err != nil || line != "ready\r\n" && line != "ready\n" {
		s.Fatalf("it says %q, %v", line, err)
	}
	fed := s.feed(shell.StdinPipe(), data, false)
	got, err := io.ReadAll(output)
	<-fed
	if err != nil || !bytes.Equal(got, data) {
		s.Errorf("of %d bytes %d came back, or others, %v", len(data), len(got), err)
	}
	s.wantEnd(shell, 0)
}

// shellReadLate reads nothing before the shell has ended.
func shellReadLate(s shellTest, tty bool) {
	shell := s.open(scriptLarge, tty)
	s.wantResult(shell, 5)
	if out, errOut := s.wantEnd(shell, 5); !bytes.Equal(out, make([]byte, 200000)) || len(errOut) > 0 {
		s.Errorf("after the end there were %d bytes, and %d on standard error", len(out), len(errOut))
	}
}

// shellOneStands: standard error stands for want of a reader, and neither the other streams nor another
// shell wait for it.
func shellOneStands(s shellTest) {
	shell := s.open(scriptErrFirst, false)
	first := bufio.NewReader(shell.StderrPipe())
	if _, err := first.ReadByte(); err != nil {
		s.Fatal(err)
	}
	other := s.open(scriptCat, false)
	data := randomBytes(s.T, 5<<20)
	for _, shell := range []interface {
		StdinPipe() io.WriteCloser
		StdoutPipe() io.ReadCloser
	}{shell, other} {
		fed := s.feed(shell.StdinPipe(), data, true)
		got := make([]byte, len(data))
		if _, err := io.ReadFull(shell.StdoutPipe(), got); err != nil || !bytes.Equal(got, data) {
			s.Errorf("beside a stream that stands: %v", err)
		}
		<-fed
	}
	s.wantEnd(other, 0)
	select {
	case <-shell.Done():
		s.Error("it has ended before its output was out")
	default:
	}
	if rest, err := io.ReadAll(first); err != nil || len(rest) != 5<<20-1 {
		s.Errorf("of what stood %d bytes came, %v", len(rest), err)
	}
	s.wantEnd(shell, 0)
}

func shellUnwanted(s shellTest) {
	shell := s.open(scriptUnwanted, false)
	if err := shell.StdoutPipe().Close(); err != nil {
		s.Error(err)
	}
	if got, err := io.ReadAll(shell.StderrPipe()); string(got) != "done\n" || err != nil {
		s.Errorf("it says %q, %v", got, err)
	}
	s.wantResult(shell, 0)
}

// shellClosedAmid closes an output in which much stands unread, and under a blocked Read.
func shellClosedAmid(s shellTest) {
	shell := s.open(scriptUnwanted, false)
	if _, err := io.ReadFull(shell.StdoutPipe(), make([]byte, 100)); err != nil {
		s.Fatal(err)
	}
	if err := shell.StdoutPipe().Close(); err != nil {
		s.Error(err)
	}
	if _, err := shell.StdoutPipe().Read(make([]byte, 1<<20)); err == nil || err == io.EOF {
		s.Errorf("what is closed can be read: %v", err)
	}
	if got, err := io.ReadAll(shell.StderrPipe()); string(got) != "done\n" || err != nil {
		s.Errorf("it says %q, %v", got, err)
	}
	s.wantResult(shell, 0)

	shell = s.open(scriptSleep, false)
	read := s.read(shell.StdoutPipe())
	if err := shell.StdoutPipe().Close(); err != nil {
		s.Error(err)
	}
	if got, err := read(); err == nil || len(got) > 0 {
		s.Errorf("a Read under which it was closed: %q, %v", got, err)
	}
	if err := shell.Abort(); err != nil {
		s.Error(err)
	}
}

func shellInputEnds(s shellTest) {
	shell := s.open(scriptSwallow, false)
	s.write(shell, "something")
	for range 2 {
		if err := shell.StdinPipe().Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
		if _, err := shell.StdinPipe().Write([]byte("more")); err == nil {
			s.Error("a write after Close is fine")
		}
	}
	s.wantEnd(shell, 4)
	// With a terminal, it is as if somebody had hung up.
	shell = s.open(scriptSleep, true)
	if err := shell.StdinPipe().Close(); err != nil {
		s.Error(err)
	}
	if _, err := io.ReadAll(shell.StdoutPipe()); err != nil {
		s.Error(err)
	}
	if success, err := shell.Wait(); success || err != nil {
		s.Errorf("a terminal whose input has ended: %v, %v", success, err)
	}
}

// shellInputStays: a shell whose input nobody closes ends all the same, be it that somebody writes.
func shellInputStays(s shellTest) {
	for _, size := range []int{0, 8 << 20} {
		shell := s.open(scriptBoth, false)
		written := make(chan struct{})
		go func() {
			defer close(written)
			_, _ = shell.StdinPipe().Write(make([]byte, size)) // which is dropped, or too late
		}()
		since := time.Now()
		s.wantEnd(shell, 3)
		<-written
		if took := time.Since(since); took > 10*time.Second {
			s.Errorf("it took %s to end", took)
		}
	}
}

func shellNoInput(s shellTest) {
	shell := s.openSpec(domain.ShellSpec{Command: []string{"sh", "-c", scriptSwallow}, NoStdin: true})
	if _, err := shell.StdinPipe().Write([]byte("x")); err == nil {
		s.Error("a write to an input that isn't there is fine")
	}
	s.wantEnd(shell, 4)
}

func shellCrowd(s shellTest) {
	var all sync.WaitGroup
	for range 20 {
		shell := s.open(scriptCat, false)
		all.Go(func() {
			data := randomBytes(s.T, 300<<10)
			fed := s.feed(shell.StdinPipe(), data, true)
			if out, _ := s.wantEnd(shell, 0); !bytes.Equal(out, data) {
				s.Errorf("of %d bytes %d came back, or others", len(data), len(out))
			}
			<-fed
		})
	}
	all.Wait()
}

var shellBreaks = map[string]func(shellTest){
	"a connection that breaks is an error": eitherWay(shellBroken),
}

// shellBroken: a broken connection is an error to all that wait, never an end and never a success; what had
// come can be read.
func shellBroken(s shellTest, tty bool) {
	if s.Break == nil {
		s.Skip("this guest's connections can't be broken")
	}
	shell := s.open(scriptEndless, tty)
	first := make([]byte, 1000)
	if _, err := io.ReadFull(shell.StdoutPipe(), first); err != nil || !bytes.Equal(first, make([]byte, len(first))) {
		s.Fatalf("before: %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- waitErr(shell) }()
	s.Break()
	n, err := io.Copy(io.Discard, shell.StdoutPipe())
	if n == 0 {
		s.Error("what had come is lost")
	}
	for range 3 {
		s.wantErr(domain.ErrNonFatalInternalError, map[string]error{
			"standard output": err, "Wait": waitErr(shell), "Result": resultErr(s.Context(), shell),
		})
		s.wantErr(domain.ErrShellTerminated, map[string]error{"Abort": shell.Abort(), "Write": writeErr(shell)})
		if tty { // whose guest may have said before that there is no more standard error
			s.wantErr(domain.ErrShellTerminated, map[string]error{"SetSize": shell.SetSize(80, 25)})
		} else {
			s.wantErr(domain.ErrNonFatalInternalError, map[string]error{"standard error": readErr(shell.StderrPipe())})
		}
		err = readErr(shell.StdoutPipe())
	}
	s.wantErr(domain.ErrNonFatalInternalError, map[string]error{"the Wait that was waiting": <-waited})
}
