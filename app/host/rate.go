package host

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// logTurn is how long a log waits at most for its turn. Behind a server that lets in a few connections at a time
// none waits for so long.
const logTurn = 5 * time.Second

// requestRates bound how often a guest may ask: its tools, as far as they show their token, and whoever
// else is in it. So a task that floods its host uses up none of the requests that its tools have. (That it doesn't
// hold all connections either is for the server to see to, to which Entry.Tools tells whose they are.) Logs, which wait for
// their turn, have one of their own: what doesn't wait would never find anything left beside them.
type requestRates struct{ tools, others, toolsLogs, othersLogs requestRate }

func (r *requestRates) init(limits domain.Limits, log *slog.Logger) {
	r.tools.init(limits, log, "the guest's tools")
	r.others.init(limits, log, "the guest")
	r.toolsLogs.init(limits, log, "the logs of the guest's tools")
	r.othersLogs.init(limits, log, "the guest's logs")
}

// requestRate is the rate of one kind of requests.
type requestRate struct {
	log   *slog.Logger
	whose string
	most  int
	giver func() // its Give, made once

	mu      sync.Mutex // guards what follows
	rate    *domain.Rate
	refused domain.Seldom
}

func (r *requestRate) init(limits domain.Limits, log *slog.Logger, whose string) {
	r.log, r.whose, r.most = log, whose, limits.Requests
	r.rate = domain.NewRate(limits.Requests, limits.RequestBurst)
	r.giver = r.give
}

func (r *requestRate) give() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate.Give()
}

// take takes a token that is there, or will be within most, and tells how long until it is.
func (r *requestRate) take(most time.Duration) (time.Duration, error) {
	r.mu.Lock()
	wait, taken := r.rate.Reserve(time.Now(), most)
	told := !taken && r.refused.Again()
	times := r.refused
	r.mu.Unlock()
	if taken {
		return wait, nil
	}
	if told {
		r.log.Warn("requests are refused: "+r.whose+" made more than the limits Requests and RequestBurst allow",
			"limit", r.most, "unit", "requests a second", "time", uint64(times))
	}
	return 0, fmt.Errorf("%w: more than the %d a second that the limit Requests allows", domain.ErrTooMany, r.most)
}

// isTools tells whether a request shows the token of the guest's tools.
func (s *Service) isTools(shown string) bool {
	return !s.token.IsZero() && proofOf(s.token, shown) == domain.ProofRight
}

// Enter implements ports.GuestAPI.
func (s *Service) Enter(shown string) (ports.Entry, error) {
	rate, tools := &s.rates.others, s.isTools(shown)
	if tools {
		rate = &s.rates.tools
	}
	if _, err := rate.take(0); err != nil {
		return ports.Entry{}, err
	}
	return ports.Entry{Tools: tools, Asked: rate.giver}, nil
}

// EnterLog implements ports.GuestAPI.
func (s *Service) EnterLog(ctx context.Context, shown string) (ports.Entry, error) {
	rate, tools := &s.rates.othersLogs, s.isTools(shown)
	if tools {
		rate = &s.rates.toolsLogs
	}
	wait, err := rate.take(logTurn)
	if err == nil {
		err = s.pause(ctx, wait)
	}
	if err != nil {
		return ports.Entry{}, err
	}
	return ports.Entry{Tools: tools, Asked: rate.giver}, nil
}

// pause waits. An error is the end of the request or of the service.
func (s *Service) pause(ctx context.Context, wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.closing.Done():
		return context.Cause(s.closing)
	case <-timer.C:
		return nil
	}
}

// EnterReply implements ports.GuestAPI.
func (s *Service) EnterReply(id domain.ActionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mailbox.PassReply(id, time.Now())
}

// EnterPoll implements ports.GuestAPI.
func (s *Service) EnterPoll() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mailbox.PassPoll(time.Now())
}
