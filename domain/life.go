package domain

import "fmt"

// Phase is how far a sandbox has come.
type Phase uint8

// The phases, in order; only Building has two ways on, and Ending and Lingering may both be left out.
const (
	PhaseBuilding  Phase = iota
	PhaseDiscarded       // from Building: it is never started
	PhaseStarting        // the machine is being booted
	PhaseRunning         // the guest has the task
	PhaseLingering       // the task has its result; shells are open still, and more may be opened
	PhaseEnding          // it was killed or timed out: the guest was asked to end the task and the shells
	PhaseEnded           // there is a status; the guest may be up, for its files
	PhaseDisposed        // all is released
)

// Event is something that happens to a sandbox, other than what its caller asks for.
type Event uint8

// The events. Succeeded and Failed are the guest's own result.
const (
	EventStarted Event = iota
	EventSucceeded
	EventFailed
	EventTimedOut
	EventGuestLost
	EventMachineDied // or never came up
	EventGaveUp      // the guest was asked to end the task, or its shells, and did not in time
)

// Life is a sandbox's life: from its building to exactly one status. It goes on until the task has its
// result and the last shell has ended, whichever is later. Every order of calls and events is fine; what
// comes too late changes nothing. The zero Life is being built.
type Life struct {
	phase  Phase
	ending Status // in PhaseLingering and PhaseEnding: what it will have been
	status Status
	result bool // the task has its result; in PhaseLingering it always has
	shells int  // open
}

// Phase is how far it has come.
func (l *Life) Phase() Phase { return l.phase }

// Status is how it ended; ok is false before that.
func (l *Life) Status() (status Status, ok bool) { return l.status, l.status != StatusNone }

// Start begins it, once. ErrSandboxBuilderDiscarded for one that was discarded or started before.
func (l *Life) Start() error {
	if l.phase != PhaseBuilding {
		return ErrSandboxBuilderDiscarded
	}
	l.phase = PhaseStarting
	return nil
}

// Discard gives up one that was not started. ErrSandboxBuilderDiscarded for any other.
func (l *Life) Discard() error {
	if l.phase != PhaseBuilding {
		return ErrSandboxBuilderDiscarded
	}
	l.phase = PhaseDiscarded
	return nil
}

// Kill has the task ended by its guest, and the shells; the status will be StatusKilled, even where the
// task had its result before, since nobody was told that. ask is true the first time: then the guest is to
// be asked. ErrSandboxAborted and ErrSandboxTerminated come too late.
func (l *Life) Kill() (ask bool, err error) {
	switch l.phase {
	case PhaseStarting, PhaseRunning, PhaseLingering:
		l.phase, l.ending = PhaseEnding, StatusKilled
		return true, nil
	case PhaseEnding:
		return false, nil
	}
	return false, l.over()
}

// Abort ends it at once, as StatusAborted, whatever shells are open. ErrSandboxAborted and
// ErrSandboxTerminated come too late.
func (l *Life) Abort() error {
	if !l.goesOn() {
		return l.over()
	}
	l.end(StatusAborted)
	return nil
}

// OpenShell notes a shell, from when it is asked for until ShellEnded. ErrSandboxAborted, or
// ErrSandboxTerminated for one that has ended or is being ended.
func (l *Life) OpenShell() error {
	if !l.goesOn() || l.phase == PhaseEnding {
		return l.over()
	}
	l.shells++
	return nil
}

// ShellEnded notes the end of a shell, or that it could not be opened. ended is true if that gives the
// life its status.
func (l *Life) ShellEnded() (ended bool) {
	if l.shells == 0 {
		return false
	}
	l.shells--
	return l.goesOn() && l.endIfDone()
}

// goesOn tells whether it was started and has not ended.
func (l *Life) goesOn() bool { return PhaseStarting <= l.phase && l.phase <= PhaseEnding }

func (l *Life) over() error {
	switch {
	case l.status == StatusAborted:
		return ErrSandboxAborted
	case l.phase == PhaseDiscarded, l.phase == PhaseBuilding:
		return ErrSandboxBuilderDiscarded
	}
	return ErrSandboxTerminated
}

// Happen notes an event. ended is true if it is the one that gives the life its status; ask is true if
// the guest is to be asked to end its task and its shells.
func (l *Life) Happen(event Event) (ended, ask bool) {
	if !l.goesOn() {
		return false, false
	}
	switch event {
	case EventStarted:
		if l.phase == PhaseStarting {
			l.phase = PhaseRunning
		}
	case EventSucceeded:
		return l.resolve(StatusSuccess), false
	case EventFailed:
		return l.resolve(StatusFailed), false
	case EventTimedOut:
		if l.phase < PhaseLingering {
			l.phase, l.ending = PhaseEnding, StatusTimedOut
			return false, true
		}
	case EventGuestLost:
		return l.lose(StatusGuestLost), false
	case EventMachineDied:
		return l.lose(StatusMachineDied), false
	case EventGaveUp:
		if l.phase == PhaseEnding {
			l.end(l.ending)
			return true, false
		}
	}
	return false, false
}

// resolve notes the task's result, which is the status where nothing else was asked for. The first counts.
func (l *Life) resolve(status Status) (ended bool) {
	if l.result {
		return false
	}
	l.result = true
	if l.phase != PhaseEnding {
		l.phase, l.ending = PhaseLingering, status
	}
	return l.endIfDone()
}

// endIfDone ends it once the task has its result, and no shell is open.
func (l *Life) endIfDone() (ended bool) {
	if !l.result || l.shells > 0 {
		return false
	}
	l.end(l.ending)
	return true
}

// lose ends it with the guest: as what it would have been anyway, if that is known.
func (l *Life) lose(status Status) (ended bool) {
	if l.phase >= PhaseLingering {
		status = l.ending
	}
	l.end(status)
	return true
}

func (l *Life) end(status Status) { l.phase, l.status = PhaseEnded, status }

// Dispose releases it. first is true once, for whoever has to do it; it is an error for one that goes on.
func (l *Life) Dispose() (first bool, err error) {
	switch l.phase {
	case PhaseEnded:
		l.phase = PhaseDisposed
		return true, nil
	case PhaseDisposed:
		return false, nil
	}
	return false, fmt.Errorf("a sandbox that has not ended can't be disposed of: end it by Abort")
}

// MaxProxyName is the longest name of a proxy, in bytes.
const MaxProxyName = 64

// CheckProxyName tells whether a proxy can have this name: letters, digits, '-' and '_', and not
// "engine", which is the protocol's own. The guest reaches it at /NAME/.
func CheckProxyName(name string) error {
	if name == "engine" {
		return fmt.Errorf("%w: the proxy name %q is reserved for the protocol", ErrNamingConflict, name)
	}
	if name == "" || len(name) > MaxProxyName {
		return fmt.Errorf("%w: a proxy name has 1 to %d characters, %s has %d", ErrInvalidProxyName, MaxProxyName, Quote(name), len(name))
	}
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return fmt.Errorf("%w: %s holds %q; it may have letters, digits, '-' and '_'", ErrInvalidProxyName, Quote(name), c)
		}
	}
	return nil
}
