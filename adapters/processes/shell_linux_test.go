package processes_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

func startShell(t *testing.T, s *processes.Starter, spec ports.ProcessSpec) ports.ShellProcess {
	t.Helper()
	p, err := s.StartShell(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

// TestShimOfAShellKilledByItsTask: what left the session, and lost its parent, is found by whichever of the
// outputs it has open. What has but the input open, which may be anybody's /dev/null, is not looked for.
func TestShimOfAShellKilledByItsTask(t *testing.T) {
	for kind, size := range map[string]*ports.TerminalSize{"pipes": nil, "terminal": {Columns: 80, Rows: 24}} {
		started := filepath.Join(t.TempDir(), "started")
		spec := sh(`
			test -t 0 && stty -opost
			sleep 1000 & echo $!
			(setsid sh -c 'echo $$; exec sleep 1000 2>/dev/null' &)
			(setsid sh -c 'echo $$; exec sleep 1000 >/dev/null' &)
			echo $$; until [ -e ` + started + ` ]; do :; done; kill -KILL $PPID; sleep 1000; :`)
		spec.Terminal = size
		p := startShell(t, starter(t, processes.ModeShim), spec)
		pids := readPIDs(t, p.Output(), 4)
		if err := os.WriteFile(started, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := p.Wait(t.Context())
		if err != nil || report.Reason != domain.ReasonSignaled || report.Signal != "SIGKILL" || !strings.Contains(report.Message, "shim") {
			t.Errorf("%s: %+v, %v", kind, report, err)
		}
		if survivors, err := p.Kill(t.Context(), time.Hour); len(survivors) > 0 || err != nil {
			t.Errorf("%s: Kill: %v, %v", kind, survivors, err)
		}
		if !gone(pids...) {
			t.Errorf("%s: some of %v are alive", kind, pids)
		}
	}
}

// TestStrayThatTakesLongToDie: one that was found by its output is none of the dead yet when it has closed that.
func TestStrayThatTakesLongToDie(t *testing.T) {
	for range 10 { // it may be dead in time
		p := startShell(t, starter(t, processes.ModeShim), sh(`
			for hoard in 1 2 3; do (setsid `+self(t)+` hoard &); done
			read started; kill -KILL $PPID; sleep 1000; :`))
		pids := readPIDs(t, p.Output(), 3)
		if _, err := io.WriteString(p.Stdin(), "now\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if survivors, err := p.Kill(t.Context(), time.Hour); len(survivors) > 0 || err != nil {
			t.Errorf("Kill: %v, %v", survivors, err)
		}
		if !gone(pids...) {
			t.Errorf("some of %v are alive", pids)
		}
	}
}

// TestShimStoppedByItsShell: a shim that was stopped must not hold up a hang-up, which needs none.
func TestShimStoppedByItsShell(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started") // the shim tells so first, or nobody would know
	spec := sh(`stty -opost; trap 'echo hung up' HUP; until [ -e ` + started + ` ]; do sleep 0.01; done
		kill -STOP $PPID; echo $$; while :; do sleep 0.05; done`)
	spec.Terminal = &ports.TerminalSize{Columns: 80, Rows: 24}
	p := startShell(t, starter(t, processes.ModeShim), spec)
	if err := os.WriteFile(started, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pids := readPIDs(t, p.Output(), 1)
	if err := p.Stdin().Close(); err != nil {
		t.Error(err)
	}
	for said, chunk := "", make([]byte, 64); !strings.Contains(said, "hung up"); {
		n, err := p.Output().Read(chunk)
		if said += string(chunk[:n]); err != nil {
			t.Fatalf("it says %q, %v", said, err)
		}
	}
	if survivors, err := p.Kill(t.Context(), 0); len(survivors) > 0 || err != nil || !gone(pids...) {
		t.Errorf("Kill: %v, %v", survivors, err)
	}
}
