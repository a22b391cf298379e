package host

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// shells are the shells of one guest.
type shells struct {
	memory  shellMemory
	closing context.Context // the service's

	// Most guests have no shell: these are made by begin.
	opening     context.Context // ends when no shell is opened any more
	stopOpening context.CancelCauseFunc
	serving     context.Context // ends when those that are open are broken off
	stopServing context.CancelCauseFunc

	mu      sync.Mutex // guards what follows, and the making of the above
	refused error      // why no shell is opened any more; nil while they are
	count   int        // of those that are open, or being opened
	open    map[ports.HostShell]struct{}
}

func (h *shells) init(limits domain.Limits, closing context.Context) {
	h.memory.budget = domain.NewShellBudget(limits.ShellBytes)
	h.closing = closing
}

// begin makes what a first shell needs. mu is held.
func (h *shells) begin() {
	if h.opening != nil {
		return
	}
	h.serving, h.stopServing = context.WithCancelCause(h.closing)
	h.opening, h.stopOpening = context.WithCancelCause(h.serving)
	h.open = make(map[ports.HostShell]struct{})
	if h.refused != nil {
		h.stopOpening(h.refused)
	}
}

// closed is why no shell is opened any more; nil while they are. mu is held.
func (h *shells) closed() error {
	if h.refused != nil {
		return h.refused
	}
	h.begin()
	return context.Cause(h.opening)
}

// over is closed when no shell is opened any more.
func (h *shells) over() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begin()
	return h.opening.Done()
}

// enter counts a shell that is to be opened; leave is its end.
func (h *shells) enter(most int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.closed(); err != nil {
		return err
	}
	if h.count >= most {
		return &domain.LimitError{Limit: "Shells", Max: int64(most), Unit: "shells at once"}
	}
	h.count++
	return nil
}

func (h *shells) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count--
}

// add takes a shell in that is connected, unless shells were aborted meanwhile.
func (h *shells) add(s ports.HostShell) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.closed(); err != nil {
		return err
	}
	h.open[s] = struct{}{}
	return nil
}

func (h *shells) remove(s ports.HostShell) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, s)
}

// refuse lets no shell open any more, and returns those that are.
func (h *shells) refuse(why error) []ports.HostShell {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refused == nil {
		h.refused = why
	}
	if h.opening != nil {
		h.stopOpening(why)
	}
	open := make([]ports.HostShell, 0, len(h.open))
	for s := range h.open {
		open = append(open, s)
	}
	return open
}

// breakOff ends the connections of those that are open.
func (h *shells) breakOff(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.serving != nil {
		h.stopServing(why)
	}
}

// AbortShells aborts all shells, and refuses new ones from now on, with ErrSandboxTerminated. It waits for
// nothing. Any number of times.
func (s *Service) AbortShells() {
	for _, shell := range s.shells.refuse(domain.ErrSandboxTerminated) {
		_ = shell.Abort() // one that has ended is fine
	}
}

// breakShells breaks the connections of all shells off, and refuses new ones from now on: there is nobody
// at the other end.
func (s *Service) breakShells(why error) {
	s.shells.refuse(why)
	s.shells.breakOff(why)
}

// OpenShell runs a process in the guest, with its streams here. ctx bounds the start alone. There is one
// try: a second might run it twice. For what only guests with FeatureExec can do it waits for the guest's
// first poll, before which a guest says what it can. The errors are ErrInvalidAction, ErrFeatureNotSupported,
// ctx's cause, ErrSandboxTerminated after AbortShells or Close, and ErrNonFatalInternalError with its cause,
// such as a LimitError, ErrNoPoll and ErrNoReply. Whoever has the shell ends it: a shell that isn't over
// counts as a request of the guest, and Close ends it.
func (s *Service) OpenShell(ctx context.Context, spec domain.ShellSpec) (ports.ShellSession, error) {
	return s.openShell(ctx, spec, func() {})
}

// openShell is OpenShell. ended is called once, when nothing of the shell is left, be it that it could not
// be opened.
func (s *Service) openShell(ctx context.Context, spec domain.ShellSpec, ended func()) (ports.ShellSession, error) {
	action, err := domain.ExecShell(s.ids.NewID(), spec)
	if err == nil {
		err = s.shells.enter(s.limits.Shells)
	}
	if err != nil {
		ended()
		return nil, shellError(ctx, err)
	}
	a := &ask{action: action, session: make(chan ports.ShellSession, 1), ended: func() {
		s.shells.leave()
		ended()
	}}
	if err := s.connected(ctx, a); err != nil {
		a.ended()
		return nil, shellError(ctx, err)
	}
	return <-a.session, nil
}

// connected waits until a shell is there, or is none.
func (s *Service) connected(ctx context.Context, a *ask) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(s.shells.opening, func() { stop(context.Cause(s.shells.opening)) })()
	if err := s.canRun(ctx, a.action.Shell()); err != nil {
		return err
	}
	if ctx.Err() != nil { // a poll that is parked would have it at once
		return context.Cause(ctx)
	}
	return s.once(ctx, a)
}

// shellError puts an error in a class of OpenShell's.
func shellError(ctx context.Context, err error) error {
	told := []error{domain.ErrInvalidAction, domain.ErrFeatureNotSupported, domain.ErrSandboxTerminated}
	if ctx.Err() != nil {
		told = append(told, context.Cause(ctx))
	}
	for _, class := range told {
		if errors.Is(err, class) {
			return fmt.Errorf("%s: %w", domain.KindExecShell, err)
		}
	}
	return fmt.Errorf("%w: %s: %w", domain.ErrNonFatalInternalError, domain.KindExecShell, err)
}

// canRun waits until it is known what the guest can, where that matters.
func (s *Service) canRun(ctx context.Context, spec domain.ShellSpec) error {
	needs := spec.NeedsExec()
	if len(needs) == 0 {
		return nil
	}
	select {
	case <-s.polled:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if s.Features().Has(domain.FeatureExec) {
		return nil
	}
	return fmt.Errorf("%w: the guest's tools are too old to give a shell %s", domain.ErrFeatureNotSupported, strings.Join(needs, ", "))
}

// errUnwanted ends a shell that came just as its caller gave up.
var errUnwanted = errors.New("nobody waits for the shell any more")

// Shell implements ports.GuestAPI.
func (s *Service) Shell(ctx context.Context, id domain.ActionID, connect func(ports.ShellTerms) (ports.HostShell, error)) error {
	defer s.request(false)()
	a, err := s.claim(id)
	if err != nil {
		return err
	}
	defer close(a.over)
	if a.session == nil {
		err := notFor(a)
		a.finish(err)
		return err
	}
	ended := func() {} // whoever asks for a shell sees to that, until it has one
	defer func() { ended() }()
	memory := s.shells.memory.of(a.action.Shell())
	defer memory.close()
	shell, err := s.connect(a, memory, connect)
	if err != nil {
		return err
	}
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(s.shells.serving, func() { end(context.Cause(s.shells.serving)) })()
	if err := s.shells.add(shell); err != nil {
		a.finish(err)
		end(err)
	}
	defer s.shells.remove(shell)
	a.session <- shell
	if a.finish(nil) {
		ended = a.ended
	} else {
		end(errUnwanted) // unless it is known why
	}
	defer expireAfter(shell, s.patienceWith(a.action.Shell()))()
	shell.Serve(life)
	if life.Err() == nil {
		s.tellBroken(shell)
	}
	return nil
}

// tellBroken tells the log of a shell that its guest broke off, or a limit did: its caller alone knows of it
// otherwise.
func (s *Service) tellBroken(shell ports.ShellSession) {
	select {
	case <-shell.Done():
	default:
		return
	}
	_, err := shell.Wait()
	if err == nil || errors.Is(err, domain.ErrShellAborted) || errors.Is(err, domain.ErrShellTerminated) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cutShells.again() {
		s.log.Warn("a shell broke off", "error", domain.Quote(err.Error()), "time", s.cutShells)
	}
}

// connect completes the handshake of a shell, for which it has as long as for any reply.
func (s *Service) connect(a *ask, memory ports.ShellMemory, connect func(ports.ShellTerms) (ports.HostShell, error)) (ports.HostShell, error) {
	hangs := time.AfterFunc(s.limits.Reply, func() {
		a.finish(fmt.Errorf("%w: the handshake of %s hangs", domain.ErrNoReply, a.action))
	})
	defer hangs.Stop()
	inner, err := connect(ports.ShellTerms{Spec: a.action.Shell(), Memory: memory, Silence: s.limits.Silence})
	if err != nil {
		a.finish(err)
		return nil, err
	}
	return inner, nil
}

// guestGrace is how much longer than its guest the host waits for a shell's time-out.
const guestGrace = 10 * time.Second

// patienceWith is the time after which the host ends a shell; 0 is never.
func (s *Service) patienceWith(spec domain.ShellSpec) time.Duration {
	if spec.Timeout > 0 && s.Features().Has(domain.FeatureExec) {
		return spec.Timeout + guestGrace // the guest does it, and tells
	}
	return spec.Timeout
}

// expireAfter ends a shell after d; 0 is never.
func expireAfter(shell ports.HostShell, d time.Duration) (stop func()) {
	if d <= 0 {
		return func() {}
	}
	timer := time.AfterFunc(d, func() {
		_ = shell.Expire(domain.Result{Report: &domain.Report{ // one that has ended is fine
			ExitCode: domain.ExitSignaled(9), Signal: "SIGKILL", Reason: domain.ReasonTimeout,
			Message: fmt.Sprintf("the host ended it after %s", d),
		}})
	})
	return func() { timer.Stop() }
}

// shellMemory is what all shells of a guest share.
type shellMemory struct {
	mu     sync.Mutex // guards budget
	budget *domain.ShellBudget
}

// of is the memory of one shell, whose outputs' first 64 KiB are reserved until close. What it has taken beyond
// counts until it is given back, or nobody is left who could read what it holds.
func (m *shellMemory) of(spec domain.ShellSpec) *oneShellMemory {
	outputs := 2
	if spec.TTY {
		outputs = 1
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	one := &oneShellMemory{&shellShare{shared: m, reserved: m.budget.Reserve(outputs)}}
	runtime.AddCleanup(one, (*shellShare).forget, one.shellShare)
	return one
}

// oneShellMemory is a ports.ShellMemory. Whoever may still read the shell's outputs refers to it.
type oneShellMemory struct{ *shellShare }

// shellShare is what one shell has of its guest's memory.
type shellShare struct {
	shared   *shellMemory
	reserved int64 // guarded by shared.mu
	taken    int64 // so is this
	closed   bool  // and this
}

// Take implements ports.ShellMemory.
func (s *shellShare) Take(want int64) int64 {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	if s.closed {
		return 0
	}
	n := s.shared.budget.Take(want)
	s.taken += n
	return n
}

// Give implements ports.ShellMemory.
func (s *shellShare) Give(n int64) {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	n = min(n, s.taken)
	s.taken -= n
	s.shared.budget.Give(n)
}

// close is for a shell that has ended: nothing more comes.
func (s *shellShare) close() {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	s.shared.budget.Give(s.reserved)
	s.reserved, s.closed = 0, true
}

// forget is for a shell that nobody can read any more.
func (s *shellShare) forget() {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	s.shared.budget.Give(s.reserved + s.taken)
	s.reserved, s.taken, s.closed = 0, 0, true
}
