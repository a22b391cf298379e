package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Config is what a Service needs. Execute and IDs must be given; the rest may be zero.
type Config struct {
	Execute domain.Execute
	Log     ports.LogSink // nil drops the log
	Limits  domain.Limits // zero fields mean their defaults
	IDs     ports.IDs
	Logger  *slog.Logger // nil is silence
	// Token says whether the guest's tools must prove themselves; empty is domain.TokenAuto.
	Token domain.TokenMode
	// Resolved is told the outcome, once, on a goroutine of its own, when the guest has reported a
	// result and the log has ended. It isn't called for a guest that never reports one.
	Resolved func(domain.Outcome)

	handsOver bool // the machine can hand a token over
}

// Service is what one guest talks to, and what asks that guest for things. Safe for concurrent use.
// Close it when the guest is gone.
type Service struct {
	execute  domain.Execute
	sink     ports.LogSink
	limits   domain.Limits
	ids      ports.IDs
	log      *slog.Logger
	resolved func(domain.Outcome)
	token    domain.Token    // none where there is no need of one
	offered  domain.Features // of version 2

	closing    context.Context // ends with Close
	close      context.CancelCauseFunc
	over       chan struct{}  // closed when the guest has reported a result, or is not asked for one any more
	settled    chan struct{}  // closed when outcome is there
	called     chan struct{}  // closed at the guest's first request
	polled     chan struct{}  // closed at the guest's first poll
	lost       chan struct{}  // closed when the guest is lost
	sinkSlot   chan struct{}  // holds one token: whoever has it may write to the sink
	background sync.WaitGroup // the goroutines that are the service's own
	shells     shells
	drain      drain
	logReads   logReads
	rates      requestRates

	mu       sync.Mutex // guards all below, and is never held over I/O or a wait
	mailbox  *domain.Mailbox
	parked   map[domain.Ticket]*poll
	late     map[*poll]struct{} // that came when polls were stopped; nil before
	noPolls  bool               // polls are stopped
	asks     map[domain.ActionID]*ask
	presence *domain.Presence
	silence  *time.Timer   // fires when the guest is to be called lost
	idle     chan struct{} // closed and dropped when no request is open; nil where nobody waits

	resolution domain.Resolution
	book       *domain.LogBook
	bookClosed bool
	logsEnded  chan struct{} // closed and dropped when no log body is open; nil where nobody waits
	sinkErr    error
	outcome    domain.Outcome
	features   domain.Features
	bootID     string
	executed   bool // the guest has asked what to run
	hellos     seldom
	brokenLogs seldom
	fullDisks  seldom
	manyPolls  seldom
	cutShells  seldom // that ended before they said how
	access     domain.Access
	strangers  seldom // requests that did not
	askers     seldom // of a token that somebody has already
	isClosed   bool
}

// offered are the features of version 2 that every host offers.
var offered = domain.Features{domain.FeatureResult, domain.FeatureTar, domain.FeatureExec, domain.FeatureShell2}

// ErrInvalidConfig is a Config that no service can be made of.
var ErrInvalidConfig = errors.New("invalid configuration")

// New checks the configuration, names every mistake in it, and starts nothing.
func New(config Config) (*Service, error) {
	limits, limitsErr := config.Limits.WithDefaults()
	if err := errors.Join(config.Execute.Check(), limitsErr, config.Token.Check()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidConfig, err)
	}
	if config.IDs == nil {
		return nil, fmt.Errorf("%w: IDs is missing", ErrInvalidConfig)
	}
	if config.Log == nil {
		config.Log = io.Discard
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		execute:  config.Execute,
		sink:     config.Log,
		limits:   limits,
		ids:      config.IDs,
		log:      config.Logger,
		resolved: config.Resolved,
		over:     make(chan struct{}),
		settled:  make(chan struct{}),
		called:   make(chan struct{}),
		polled:   make(chan struct{}),
		lost:     make(chan struct{}),
		sinkSlot: make(chan struct{}, 1),
		mailbox: domain.NewMailbox(domain.Patience{Offer: limits.Offer, Reply: limits.Reply},
			limits.Actions, limits.Polls),
		parked:   make(map[domain.Ticket]*poll),
		asks:     make(map[domain.ActionID]*ask),
		presence: domain.NewPresence(limits.Silence),
		book:     domain.NewLogBook(limits.LogBytes),
		access:   domain.NewAccess(config.Token, config.handsOver),
		offered:  offered,
	}
	if s.access.HasToken() {
		s.token = newToken()
		s.offered = append(slices.Clone(offered), domain.FeatureToken)
	}
	s.closing, s.close = context.WithCancelCause(context.Background())
	s.shells.init(limits, s.closing)
	s.rates.init(limits, s.log)
	s.logReads.init()
	s.sinkSlot <- struct{}{}
	return s, nil
}

// Called is closed at the guest's first request: it is there.
func (s *Service) Called() <-chan struct{} { return s.called }

// Lost is closed when a guest that has polled fell silent for Limits.Silence. It stays closed even if
// the guest comes back.
func (s *Service) Lost() <-chan struct{} { return s.lost }

// Over implements ports.GuestAPI.
func (s *Service) Over() <-chan struct{} { return s.over }

// Settled is closed when the guest has reported a result and the log has ended: Outcome is final.
func (s *Service) Settled() <-chan struct{} { return s.settled }

// Outcome waits for the guest's result and the end of its log. The error is ctx's cause, or
// ErrSandboxTerminated where the service was closed before.
func (s *Service) Outcome(ctx context.Context) (domain.Outcome, error) {
	select {
	case <-s.settled:
	case <-ctx.Done():
		return domain.Outcome{}, context.Cause(ctx)
	case <-s.closing.Done():
		select {
		case <-s.settled:
		default:
			return domain.Outcome{}, context.Cause(s.closing)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outcome, nil
}

// Resolved tells whether the guest has reported a result, even if its log has not ended yet.
func (s *Service) Resolved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.resolution.Result()
	return ok
}

// StopPolls answers the parked polls with nothing to do, and from now on each poll after a second.
// Actions that no guest has taken fail at once.
func (s *Service) StopPolls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noPolls = true
	s.evictPolls()
	for id, a := range s.asks {
		if _, err := s.mailbox.Pending(id, time.Now()); err != nil {
			s.mailbox.Withdraw(id)
			delete(s.asks, id)
			a.finish(fmt.Errorf("%w: polls were stopped", domain.ErrNoPoll))
		}
	}
}

// closeGrace is how long Close waits for requests that are being ended, and for the callback.
const closeGrace = time.Second

// Close ends every wait and every transfer, with ErrSandboxTerminated, and returns when nothing of
// the service runs any more. Only a log sink or a callback that blocks outlives it, and holds it up
// for a second. Close doesn't end the connections, which belong to the server. Any number of times.
func (s *Service) Close() error {
	s.close(domain.ErrSandboxTerminated)
	s.mu.Lock()
	s.isClosed, s.noPolls = true, true
	s.evictPolls()
	s.evictLate()
	s.bookClosed = true
	s.endTask()
	if s.silence != nil {
		s.silence.Stop()
	}
	idle := s.whenIdle()
	s.mu.Unlock()

	joined := make(chan struct{})
	go func() { // ends with the callback, at the latest
		s.background.Wait()
		close(joined)
	}()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	for range 2 {
		select {
		case <-idle:
			idle = nil
		case <-joined:
			joined = nil
		case <-grace.C:
			return nil
		}
	}
	return nil
}

// spawn runs f on a goroutine that Close waits for; s.mu must be held.
func (s *Service) spawn(f func()) {
	if !s.isClosed {
		s.background.Go(f)
	}
}

// request notes a request of the guest; call what it returns at the request's end. A guest with a
// request open isn't lost, however long that takes.
func (s *Service) request(poll bool) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	shut(s.called)
	if poll {
		shut(s.polled)
	}
	s.presence.Begin(poll, time.Now())
	if s.silence != nil {
		s.silence.Stop()
	}
	return s.requestEnded
}

// shut closes a channel that nothing is sent to, once; whatever guards it must be held.
func shut(c chan struct{}) (first bool) {
	select {
	case <-c:
		return false
	default:
		close(c)
		return true
	}
}

func (s *Service) requestEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.presence.End(now)
	if s.idle != nil && !s.presence.Busy() {
		close(s.idle)
		s.idle = nil
	}
	at, ok := s.presence.LostAt()
	if !ok || s.isClosed {
		return
	}
	if s.silence == nil {
		s.silence = time.AfterFunc(at.Sub(now), s.checkLost)
	} else {
		s.silence.Reset(at.Sub(now))
	}
}

// whenIdle is closed when no request is open; s.mu must be held.
func (s *Service) whenIdle() <-chan struct{} {
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	if !s.presence.Busy() {
		close(s.idle)
		s.idle = nil
	}
	return idle
}

func (s *Service) checkLost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed || !s.presence.Lost(time.Now()) {
		return
	}
	if shut(s.lost) {
		s.log.Warn("guest lost: it has polled before, and now neither polls nor has a request open", "silence", s.limits.Silence)
	}
}

// Hello implements ports.GuestAPI.
func (s *Service) Hello(_ context.Context, hello domain.Hello) (domain.Features, error) {
	defer s.request(false)()
	if err := hello.Check(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rebooted := s.bootID != "" && s.bootID != hello.BootID
	s.bootID = hello.BootID
	s.features = s.offered.Both(hello.Features)
	if rebooted {
		s.recall()
	}
	switch {
	case !s.hellos.again():
	case rebooted:
		s.log.Warn("the guest has rebooted", "hello", hello, "time", s.hellos)
	default:
		s.log.Info("the guest says hello", "hello", hello, "time", s.hellos)
	}
	return s.offered, nil
}

// recall takes back what the boot before had taken and not answered: nobody is left who knows of it. Nor is
// anybody left at the end of its polls, and a machine that was reset doesn't say so before it is written to. s.mu
// must be held.
func (s *Service) recall() {
	s.evictPolls()
	for _, id := range s.mailbox.Recall() {
		s.lookAgain(id)
	}
	s.match()
}

// Features implements ports.GuestAPI.
func (s *Service) Features() domain.Features {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.features
}

// Execute implements ports.GuestAPI.
func (s *Service) Execute(context.Context) (domain.Execute, error) {
	defer s.request(false)()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, resolved := s.resolution.Result(); resolved {
		return domain.Execute{}, domain.ErrConflict
	}
	s.tellUnproved()
	s.executed = true
	return s.execute, nil
}

var _ ports.GuestAPI = (*Service)(nil)
