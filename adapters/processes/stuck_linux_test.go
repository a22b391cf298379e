package processes

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/ports"
)

// deathless is a shim that is held in the kernel: no signal reaches it.
type deathless struct{ kills int }

func (d *deathless) Kill() error { d.kills++; return nil }

func (d *deathless) Signal(os.Signal) error { return nil }

func (d *deathless) Wait() (*os.ProcessState, error) { select {} }

// TestAStuckShimIsGivenUp: nobody waits for ever for a shim that can't die; it is told as a survivor.
// Once nobody wants to wait, a second for its death is enough.
func TestAStuckShimIsGivenUp(t *testing.T) {
	for _, c := range []struct {
		hurry time.Duration // when ctx ends
		most  time.Duration
	}{
		{time.Hour, 7*time.Second + 2*shimPatience},
		{0, shimPatience + shimDeath},
		{12 * time.Second, 12*time.Second + shimPatience + shimDeath},
		{7*time.Second + shimPatience + 2*time.Second, 7*time.Second + shimPatience + 2*time.Second + shimDeath},
	} {
		shim := sleeper(t)
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.Stat(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		stuck := &deathless{}
		synctest.Test(t, func(t *testing.T) {
			l := &lifeline{
				shim: stuck, pid: shim.Process.Pid, control: null, gone: make(chan struct{}),
				tree:  &strays{written: []os.FileInfo{other}},
				kills: make(map[int]chan<- []ports.Survivor),
			}
			ctx, cancel := context.WithTimeout(t.Context(), c.hurry)
			defer cancel()
			start := time.Now()
			left, err := l.kill(ctx, 7*time.Second)
			if err != nil || len(left) != 1 || left[0].PID != shim.Process.Pid || left[0].Command != "sleep" {
				t.Errorf("hurry after %s: left %v, %v; want the shim", c.hurry, left, err)
			}
			// Others' processes come and go meanwhile, in no bubble; a look at all of them that saw one go is repeated.
			const looks = time.Second
			if took := time.Since(start); took > c.most+looks {
				t.Errorf("hurry after %s: it took %s, want %s at most", c.hurry, took, c.most)
			}
		})
		null.Close()
		if stuck.kills != 1 {
			t.Errorf("the shim was killed %d times", stuck.kills)
		}
	}
}

// sleeper is a process in a session of its own.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}
