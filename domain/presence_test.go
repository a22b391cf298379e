package domain_test

import (
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
)

func TestPresence(t *testing.T) {
	type step struct {
		at   float64
		what string
	}
	tests := map[string]struct {
		steps  []step
		lostAt float64 // with a silence of 45 s; 0 is never
	}{
		"a guest that never came is late, not lost":     {nil, 0},
		"nor is one that asked but never polled":        {[]step{{1, "ask"}, {2, "end"}}, 0},
		"a poll that is open is a sign of life":         {[]step{{1, "poll"}}, 0},
		"from its end on it counts":                     {[]step{{1, "poll"}, {31, "end"}}, 76},
		"a request after it is one too":                 {[]step{{1, "poll"}, {31, "end"}, {40, "ask"}}, 0},
		"and its end":                                   {[]step{{1, "poll"}, {31, "end"}, {40, "ask"}, {50, "end"}}, 95},
		"a log body that is open all the while":         {[]step{{1, "ask"}, {2, "poll"}, {32, "end"}}, 0},
		"until the last one ends":                       {[]step{{1, "ask"}, {2, "poll"}, {32, "end"}, {500, "end"}}, 545},
		"a poll while another is open":                  {[]step{{1, "poll"}, {2, "poll"}, {3, "end"}}, 0},
		"a guest that comes back is there again":        {[]step{{1, "poll"}, {2, "end"}, {100, "poll"}}, 0},
		"and can be lost again":                         {[]step{{1, "poll"}, {2, "end"}, {100, "poll"}, {101, "end"}}, 146},
		"having polled once is enough for all its days": {[]step{{1, "poll"}, {2, "end"}, {3, "ask"}, {4, "end"}}, 49},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := domain.NewPresence(45 * time.Second)
			open := 0
			for _, step := range test.steps {
				if step.what == "end" {
					open--
					p.End(at(step.at))
				} else {
					open++
					p.Begin(step.what == "poll", at(step.at))
				}
				if p.Busy() != (open > 0) {
					t.Errorf("with %d requests open, busy is %v", open, p.Busy())
				}
			}
			got, ok := p.LostAt()
			if test.lostAt == 0 {
				if ok || p.Lost(at(1e6)) {
					t.Errorf("it is lost at %s", got.Sub(start))
				}
				return
			}
			if !ok || !got.Equal(at(test.lostAt)) {
				t.Errorf("it is lost (%v) %s after the start, not %v s", ok, got.Sub(start), test.lostAt)
			}
			if p.Lost(at(test.lostAt).Add(-1)) || !p.Lost(at(test.lostAt)) {
				t.Error("Lost and LostAt don't agree")
			}
		})
	}
}
