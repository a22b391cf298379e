package domain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

func TestExecuteCheck(t *testing.T) {
	tests := map[string]struct {
		execute domain.Execute
		says    []string // in this order; none where it is fine
	}{
		"nothing at all":      {domain.Execute{}, nil},
		"an ordinary one":     {domain.Execute{Command: []string{"sh", "-c", ""}, Env: map[string]string{"PATH": "/bin", "EMPTY": "", "a.b-c": "=\n"}}, nil},
		"NUL in an argument":  {domain.Execute{Command: []string{"sh", "a\x00"}}, []string{"argument 1 holds a NUL"}},
		"an argument's bytes": {domain.Execute{Command: []string{"\xff"}}, []string{"argument 0 is not UTF-8"}},
		"NUL in a value":      {domain.Execute{Env: map[string]string{"A": "secret\x00"}}, []string{`the value of the variable "A" holds a NUL`}},
		"a value's bytes":     {domain.Execute{Env: map[string]string{"A": "secret\xff"}}, []string{`the variable "A" is not UTF-8`}},
		"a name's bytes":      {domain.Execute{Env: map[string]string{"A\xff": "secret"}}, []string{`the variable "A\xff" is not UTF-8`}},
		"no name":             {domain.Execute{Env: map[string]string{"": "secret"}}, []string{"a variable without a name"}},
		"NUL in a name":       {domain.Execute{Env: map[string]string{"A\x00": "secret"}}, []string{`the variable name "A\x00" holds '=' or a NUL`}},
		"all that is wrong, sorted": {
			domain.Execute{Command: []string{"a\x00", "b", "c\x00"}, Env: map[string]string{"B=": "secret", "": "secret", "A": "secret\x00", "OK": "secret"}},
			[]string{"argument 0", "argument 2", "without a name", `"A"`, `"B="`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.execute.Check()
			if len(test.says) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, domain.ErrInvalidExecute) {
				t.Fatalf("the error is %v", err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.says) {
				t.Fatalf("it should name %d defects: %q", len(test.says), lines)
			}
			for i, says := range test.says {
				if !strings.Contains(lines[i], says) {
					t.Errorf("%q does not say %q", lines[i], says)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%q shows a value", err)
			}
		})
	}
}

// A log line or an error that shows an Execute whole would show the secrets in its environment.
func TestExecuteShowsNoValues(t *testing.T) {
	execute := domain.Execute{
		Command: []string{"login", "--password=hunter2"},
		Env:     map[string]string{"TOKEN": "hunter2", "hunter2": "x"},
	}
	ways := map[string]func(log *slog.Logger, out *bytes.Buffer){
		"value":   func(log *slog.Logger, _ *bytes.Buffer) { log.Info("m", "execute", execute) },
		"pointer": func(log *slog.Logger, _ *bytes.Buffer) { log.Info("m", "execute", &execute) },
		"group":   func(log *slog.Logger, _ *bytes.Buffer) { log.Info("m", slog.Group("g", "execute", execute)) },
		"with":    func(log *slog.Logger, _ *bytes.Buffer) { log.With("execute", execute).Info("m") },
		"attr":    func(log *slog.Logger, _ *bytes.Buffer) { log.Info("m", slog.Any("execute", execute)) },
		"%v":      func(_ *slog.Logger, out *bytes.Buffer) { fmt.Fprintf(out, "%v args=2", execute) },
		"%+v": func(_ *slog.Logger, out *bytes.Buffer) {
			fmt.Fprintf(out, "%+v args=2", struct{ E domain.Execute }{execute})
		},
		"%#v":      func(_ *slog.Logger, out *bytes.Buffer) { fmt.Fprintf(out, "%#v args=2", execute) },
		"%s of it": func(_ *slog.Logger, out *bytes.Buffer) { fmt.Fprintf(out, "%s args=2", &execute) },
	}
	handlers := map[string]func(*bytes.Buffer) slog.Handler{
		"JSON": func(out *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(out, nil) },
		"text": func(out *bytes.Buffer) slog.Handler { return slog.NewTextHandler(out, nil) },
	}
	for handler, make := range handlers {
		for way, show := range ways {
			t.Run(handler+" "+way, func(t *testing.T) {
				var out bytes.Buffer
				show(slog.New(make(&out)), &out)
				if strings.Contains(out.String(), "hunter2") || strings.Contains(out.String(), "TOKEN") {
					t.Errorf("it shows a secret: %s", &out)
				}
				if !strings.Contains(strings.NewReplacer(`"`, "", ":", "=").Replace(out.String()), "args=2") {
					t.Errorf("it doesn't tell how much there is: %s", &out)
				}
			})
		}
	}
	if want := "a command of 2 arguments with 2 variables"; execute.String() != want {
		t.Errorf("%q is not %q", execute, want)
	}
}

func TestExecuteAsJSONIsWhole(t *testing.T) {
	execute := domain.Execute{Command: []string{"sh"}, Env: map[string]string{"A": "b"}}
	got, err := json.Marshal(execute)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"env":{"A":"b"},"command":["sh"]}`; string(got) != want {
		t.Errorf("the guest would get %s, not %s", got, want)
	}
}

func TestReportCheck(t *testing.T) {
	largest := int64(1<<32 - 1)
	exited := domain.Report{Reason: domain.ReasonExited}
	with := func(change func(*domain.Report)) domain.Report {
		r := exited
		change(&r)
		return r
	}
	tests := map[string]struct {
		report domain.Report
		says   string
	}{
		"success":            {exited, ""},
		"signaled":           {domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonSignaled}, ""},
		"killed":             {domain.Report{Reason: domain.ReasonKilled}, ""},
		"timeout":            {domain.Report{Reason: domain.ReasonTimeout}, ""},
		"start-failed":       {domain.Report{ExitCode: domain.ExitNotFound, Reason: domain.ReasonStartFailed}, ""},
		"oom":                {domain.Report{Reason: domain.ReasonOOM}, ""},
		"the largest code":   {with(func(r *domain.Report) { r.ExitCode = int(largest) }), ""},
		"a larger one":       {with(func(r *domain.Report) { r.ExitCode = int(largest + 1) }), "the exit code is 4294967296"},
		"a negative one":     {with(func(r *domain.Report) { r.ExitCode = -1 }), "the exit code is -1"},
		"a real-time signal": {with(func(r *domain.Report) { r.Signal = "SIGRTMIN+15" }), ""},
		"the longest signal": {with(func(r *domain.Report) { r.Signal = strings.Repeat("S", 16) }), ""},
		"a longer one":       {with(func(r *domain.Report) { r.Signal = strings.Repeat("S", 17) }), "the signal is"},
		"a signal's bytes":   {with(func(r *domain.Report) { r.Signal = "SIG\xff" }), `the signal is "SIG\xff"`},
		"a hostile signal":   {with(func(r *domain.Report) { r.Signal = "\x1b[2J" }), `the signal is "\x1b[2J"`},
		"no reason":          {domain.Report{}, `the reason is ""`},
		"an unknown reason":  {domain.Report{Reason: "\x1bbored"}, `the reason is "\x1bbored", it must be one of [exited signaled killed timeout start-failed oom]`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.report.Check()
			switch {
			case test.says == "" && err != nil:
				t.Error(err)
			case test.says != "" && !errors.Is(err, domain.ErrInvalidReport):
				t.Errorf("the error is %v", err)
			case test.says != "" && !strings.Contains(err.Error(), test.says):
				t.Errorf("%q does not say %q", err, test.says)
			}
		})
	}
}

func TestReportInWords(t *testing.T) {
	tests := map[string]struct {
		report    domain.Report
		succeeded bool
		want      string
	}{
		"success":                             {domain.Report{Reason: domain.ReasonExited}, true, "exited with exit code 0"},
		"failure":                             {domain.Report{Reason: domain.ReasonExited, ExitCode: 3, Message: "no\x1b[m"}, false, `exited with exit code 3: "no\x1b[m"`},
		"signal":                              {domain.Report{Reason: domain.ReasonSignaled, ExitCode: domain.ExitSignaled(9), Signal: "SIGKILL"}, false, "signaled by SIGKILL"},
		"a signal where there should be none": {domain.Report{Reason: domain.ReasonExited, Signal: "SIGHUP"}, false, "exited by SIGHUP"},
		"killed, although it exited well":     {domain.Report{Reason: domain.ReasonKilled}, false, "killed with exit code 0"},
		"not started":                         {domain.Report{Reason: domain.ReasonStartFailed, ExitCode: domain.ExitNotExecutable, Message: "a folder"}, false, `start-failed with exit code 126: "a folder"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := test.report.Succeeded(); got != test.succeeded {
				t.Errorf("succeeded is %v", got)
			}
			if got := test.report.String(); got != test.want {
				t.Errorf("%s\nis not\n%s", got, test.want)
			}
		})
	}
	if got := domain.ExitSignaled(15); got != 143 {
		t.Errorf("SIGTERM is %d to a shell, not 143", got)
	}
}

func TestResultCheck(t *testing.T) {
	zero := &domain.Report{Reason: domain.ReasonExited}
	three := &domain.Report{Reason: domain.ReasonExited, ExitCode: 3}
	signaled := &domain.Report{Reason: domain.ReasonSignaled, Signal: "SIGTERM"}
	tests := map[string]struct {
		result domain.Result
		ok     bool
	}{
		"version 1, success":    {domain.Result{Success: true}, true},
		"version 1, failure":    {domain.Result{}, true},
		"success with 0":        {domain.Result{Success: true, Report: zero}, true},
		"success with 3":        {domain.Result{Success: true, Report: three}, false},
		"success by a signal":   {domain.Result{Success: true, Report: signaled}, false},
		"failure with 3":        {domain.Result{Report: three}, true},
		"failure by a signal":   {domain.Result{Report: signaled}, true},
		"failure with 0":        {domain.Result{Report: zero}, true}, // its log could not be sent, say
		"an impossible report":  {domain.Result{Report: &domain.Report{}}, false},
		"impossible, succeeded": {domain.Result{Success: true, Report: &domain.Report{}}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.result.Check()
			if test.ok && err != nil || !test.ok && !errors.Is(err, domain.ErrInvalidReport) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestResolution(t *testing.T) {
	var r domain.Resolution
	if result, ok := r.Result(); ok {
		t.Fatalf("unresolved, it has the result %v", result)
	}
	report := &domain.Report{Reason: domain.ReasonExited, ExitCode: 3}
	steps := []struct {
		name   string
		result domain.Result
		first  bool
		err    error
	}{
		{"the first counts", domain.Result{Report: report}, true, nil},
		{"the same again is fine", domain.Result{Report: report}, false, nil},
		{"with other words too, as from a retry", domain.Result{}, false, nil},
		{"the other is a conflict", domain.Result{Success: true}, false, domain.ErrConflict},
		{"which changes nothing", domain.Result{}, false, nil},
	}
	for _, step := range steps {
		first, err := r.Resolve(step.result)
		if first != step.first || !errors.Is(err, step.err) {
			t.Errorf("%s: first is %v, the error %v", step.name, first, err)
		}
		got, ok := r.Result()
		if diff := cmp.Diff(domain.Result{Report: report}, got); !ok || diff != "" {
			t.Errorf("%s: the result is now (%v):\n%s", step.name, ok, diff)
		}
	}
}
