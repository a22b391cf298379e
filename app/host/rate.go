package host

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// requestRates bound how often a guest may ask: its tools, as far as they show their token, and whoever
// else is in it. So a task that floods its host doesn't lock the tools out that it depends on.
type requestRates struct{ tools, others requestRate }

func (r *requestRates) init(limits domain.Limits, log *slog.Logger) {
	r.tools.init(limits, log, "the guest's tools")
	r.others.init(limits, log, "the guest")
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

func (r *requestRate) take() error {
	r.mu.Lock()
	taken := r.rate.Take(time.Now())
	told := !taken && r.refused.Again()
	times := r.refused
	r.mu.Unlock()
	if taken {
		return nil
	}
	if told {
		r.log.Warn("requests are refused: "+r.whose+" made more than the limits Requests and RequestBurst allow",
			"limit", r.most, "unit", "requests a second", "time", uint64(times))
	}
	return fmt.Errorf("%w: more than the %d a second that the limit Requests allows", domain.ErrTooMany, r.most)
}

// Enter implements ports.GuestAPI.
func (s *Service) Enter(shown string) (asked func(), err error) {
	rate := &s.rates.others
	if !s.token.IsZero() && proofOf(s.token, shown) == domain.ProofRight {
		rate = &s.rates.tools
	}
	if err := rate.take(); err != nil {
		return nil, err
	}
	return rate.giver, nil
}
