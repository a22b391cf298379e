package domain

import "fmt"

// Phase is how far a sandbox has come.
type Phase uint8

// The phases, in order; only Building has two ways on.
const (
	PhaseBuilding  Phase = iota
	PhaseDiscarded       // from Building: it is never started
	PhaseStarting        // the machine is being booted
	PhaseRunning         // the guest has the task
	PhaseEnding          // the guest was asked to end the task, and has not said that it did
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
	EventGaveUp      // the guest was asked to end the task, and did not in time
)

// Life is a sandbox's life: from its building to exactly one status. Every order of calls and events is
// fine; what comes too late changes nothing. The zero Life is being built.
type Life struct {
	phase  Phase
	ending Status // in PhaseEnding: what it will have been
	status Status
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

// Kill has the task ended by its guest, and the status will be StatusKilled. ask is true the first time:
// then the guest is to be asked. ErrSandboxAborted and ErrSandboxTerminated come too late.
func (l *Life) Kill() (ask bool, err error) {
	switch l.phase {
	case PhaseStarting, PhaseRunning:
		l.phase, l.ending = PhaseEnding, StatusKilled
		return true, nil
	case PhaseEnding:
		return false, nil
	}
	return false, l.over()
}

// Abort ends it at once, as StatusAborted. ErrSandboxAborted and ErrSandboxTerminated come too late.
func (l *Life) Abort() error {
	switch l.phase {
	case PhaseStarting, PhaseRunning, PhaseEnding:
		l.end(StatusAborted)
		return nil
	}
	return l.over()
}

// Usable tells whether the guest may be asked for things beside its task, such as a shell: nil, or
// ErrSandboxAborted, or ErrSandboxTerminated.
func (l *Life) Usable() error {
	switch l.phase {
	case PhaseStarting, PhaseRunning, PhaseEnding:
		return nil
	}
	return l.over()
}

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
// the guest is to be asked to end its task.
func (l *Life) Happen(event Event) (ended, ask bool) {
	switch l.phase {
	case PhaseStarting, PhaseRunning:
		return l.happenRunning(event)
	case PhaseEnding:
		switch event {
		case EventStarted, EventTimedOut:
			return false, false
		}
		l.end(l.ending) // whatever it is: it was ended
		return true, false
	}
	return false, false
}

func (l *Life) happenRunning(event Event) (ended, ask bool) {
	switch event {
	case EventStarted:
		l.phase = PhaseRunning
	case EventSucceeded:
		l.end(StatusSuccess)
	case EventFailed:
		l.end(StatusFailed)
	case EventGuestLost:
		l.end(StatusGuestLost)
	case EventMachineDied:
		l.end(StatusMachineDied)
	case EventTimedOut:
		l.phase, l.ending = PhaseEnding, StatusTimedOut
		return false, true
	}
	return l.phase == PhaseEnded, false
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
