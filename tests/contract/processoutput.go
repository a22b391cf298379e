package contract

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

var processOutputs = map[string]func(*testing.T, ports.Processes){
	"the output is one stream":                       processMerged,
	"a terminal is one":                              processTerminal,
	"the input is empty":                             processInput,
	"a slow reader gets all":                         processSlowReader,
	"a child holds the output open":                  processChildHolds,
	"a child floods the output":                      processChildFloods,
	"a child drips into the output":                  processChildDrips,
	"a terminal's children live on":                  processNoHangup,
	"what a command prints as it exits is all there": processLastWords,
}

// bothWays runs a test with a pipe and with a terminal.
func bothWays(t *testing.T, spec ports.ProcessSpec, test func(kind string, spec ports.ProcessSpec)) {
	t.Helper()
	test("pipe", spec)
	test("terminal", inTerminal(spec))
}

func processMerged(t *testing.T, processes ports.Processes) {
	const script = `i=0; while [ $i -lt 300 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done`
	var want strings.Builder
	for i := range 300 {
		fmt.Fprintf(&want, "out %d\nerr %d\n", i, i)
	}
	bothWays(t, shell(t, script), func(kind string, spec ports.ProcessSpec) {
		if got := readAll(t, startProcess(t, processes, spec)); got != want.String() {
			t.Errorf("%s: the output is %.200q…, want %.200q…", kind, got, want.String())
		}
	})
}

func processTerminal(t *testing.T, processes ports.Processes) {
	const script = `test -t 1 && test -t 2 && echo terminal; test -t 0 || echo no input; stty size <&1; (: </dev/tty) 2>/dev/null || echo not controlling`
	got := readAll(t, startProcess(t, processes, inTerminal(shell(t, script))))
	if want := "terminal\nno input\n24 80\nnot controlling\n"; got != want { // and no \r
		t.Errorf("in a terminal: %q, want %q", got, want)
	}
	got = readAll(t, startProcess(t, processes, shell(t, `test -t 1 || test -t 2 || test -t 0 || echo none`)))
	if got != "none\n" {
		t.Errorf("in a pipe: %q", got)
	}
}

func processInput(t *testing.T, processes ports.Processes) {
	bothWays(t, shell(t, `cat | wc -c`), func(kind string, spec ports.ProcessSpec) {
		if got := readAll(t, startProcess(t, processes, spec)); strings.TrimSpace(got) != "0" {
			t.Errorf("%s: the input has %q bytes", kind, got)
		}
	})
}

func processSlowReader(t *testing.T, processes ports.Processes) {
	const size = 4 << 20
	bothWays(t, shell(t, "head -c "+strconv.Itoa(size)+" /dev/zero | tr '\\0' x"), func(kind string, spec ports.ProcessSpec) {
		process := startProcess(t, processes, spec)
		output := readerFunc(func(p []byte) (int, error) {
			runtime.Gosched()
			return process.Output().Read(p[:min(len(p), 1000)])
		})
		if n, err := io.Copy(io.Discard, output); n != size || err != nil {
			t.Errorf("%s: %d bytes of %d came, %v", kind, n, size, err)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// processChildHolds: a child in the background held the task open until it ended.
func processChildHolds(t *testing.T, processes ports.Processes) {
	bothWays(t, shell(t, "sleep 1000 & echo done"), func(kind string, spec ports.ProcessSpec) {
		process := startProcess(t, processes, spec)
		wantReport(t, process, domain.Report{Reason: domain.ReasonExited})
		since := time.Now()
		if got := readAll(t, process); got != "done\n" {
			t.Errorf("%s: the output is %q", kind, got)
		}
		if took := time.Since(since); took > 20*time.Second {
			t.Errorf("%s: it took %v", kind, took)
		}
		if n, err := process.Output().Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("%s: read after the end: %d, %v", kind, n, err)
		}
	})
}

// processChildDrips: what writes slowly until its time is over was cut, too.
func processChildDrips(t *testing.T, processes ports.Processes) {
	bothWays(t, shell(t, "(while :; do echo drip; sleep 0.1; done) & exit 0"), func(kind string, spec ports.ProcessSpec) {
		var n int
		var err error
		for range 3 { // it may be the machine that stands still at the end
			process := startProcess(t, processes, spec)
			readAll(t, process)
			if n, err = process.Output().Read(make([]byte, 1)); n == 0 && errors.Is(err, ports.ErrOutputCut) {
				return
			}
		}
		t.Errorf("%s: the end of it is %d, %v; it was cut", kind, n, err)
	})
}

func processChildFloods(t *testing.T, processes ports.Processes) {
	bothWays(t, shell(t, "echo first; yes & exit 0"), func(kind string, spec ports.ProcessSpec) {
		process := startProcess(t, processes, spec)
		if got := readAll(t, process); !strings.HasPrefix(got, "first\n") {
			t.Errorf("%s: the output begins with %.100q", kind, got)
		}
		if n, err := process.Output().Read(make([]byte, 1)); n != 0 || !errors.Is(err, ports.ErrOutputCut) {
			t.Errorf("%s: the end of it is %d, %v; it was cut", kind, n, err)
		}
		wantReport(t, process, domain.Report{Reason: domain.ReasonExited})
	})
}

// processNoHangup: the command leads a session, whose children get SIGHUP at its end if the terminal is
// the controlling one.
func processNoHangup(t *testing.T, processes ports.Processes) {
	process := startProcess(t, processes, inTerminal(shell(t, "sleep 1000 & echo $!")))
	child := readPID(t, process)
	waitReport(t, process)
	readAll(t, process)
	if !alive(child) {
		t.Error("the child ended with the command")
	}
}

// processLastWords: a command that prints and exits at once, a thousand times, on a busy machine.
func processLastWords(t *testing.T, processes ports.Processes) {
	runs := 100
	if *Long {
		runs = 1000
	}
	busyCores(t, runtime.NumCPU())
	bothWays(t, shell(t, ""), func(kind string, spec ports.ProcessSpec) {
		for run := range runs {
			want := strings.Repeat("0123456789\n", 1+run*37%5000)
			spec.Command = []string{"/bin/echo", "-n", want}
			process, err := processes.Start(spec)
			if err != nil {
				t.Fatal(err)
			}
			got, ended := readWithin(process, processPatience)
			report := waitReport(t, process)
			if err := process.Close(); err != nil {
				t.Error(err)
			}
			if got != want || !ended || !report.Succeeded() {
				t.Fatalf("%s, run %d: %d bytes came of %d (ended: %t), it %s", kind, run, len(got), len(want), ended, report)
			}
		}
	})
}
