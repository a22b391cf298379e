//go:build unix

package processes

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/domain"
)

// end is how a command ended: what the system says, and what we know beside that.
type end struct {
	status syscall.WaitStatus
	killed bool // it was alive when the tree was killed
	oom    bool // the kernel killed for want of memory in its tree
}

func (e end) report() domain.Report {
	r := domain.Report{ExitCode: e.status.ExitStatus(), Reason: domain.ReasonExited}
	if e.status.Signaled() {
		signal := e.status.Signal()
		r.ExitCode = domain.ExitSignaled(int(signal))
		r.Signal = signalName(signal)
		r.Reason = domain.ReasonSignaled
		if e.oom && signal == syscall.SIGKILL {
			r.Reason = domain.ReasonOOM
		}
	}
	if e.killed {
		r.Reason = domain.ReasonKilled
	}
	return r
}

// firstRealtime is the first of the signals without names of their own, as C libraries count them: the
// kernel's first two are the library's.
const firstRealtime = 34

func signalName(signal syscall.Signal) string {
	if name := unix.SignalName(signal); name != "" {
		return name
	}
	if n := int(signal) - firstRealtime; n >= 0 {
		return fmt.Sprintf("SIGRTMIN+%d", n)
	}
	return fmt.Sprintf("SIG%d", int(signal))
}

// lost is the report of a command whose end nobody could tell us.
func lost(why string) domain.Report {
	return domain.Report{
		ExitCode: domain.ExitSignaled(int(syscall.SIGKILL)),
		Signal:   signalName(syscall.SIGKILL),
		Reason:   domain.ReasonSignaled,
		Message:  why,
	}
}
