package domain_test

import (
	"math"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// The clock of all tests here starts at start; at is so many seconds later.
var start = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func TestPace(t *testing.T) {
	type got struct {
		at float64
		n  int
	}
	every := func(seconds float64, times, n int) (all []got) {
		for i := range times {
			all = append(all, got{seconds * float64(i+1), n})
		}
		return all
	}
	tests := map[string]struct {
		floor    int64
		got      []got
		deadline float64 // of a window of 10 s
	}{
		"silence":                              {1000, nil, 10},
		"silence, with no floor":               {0, nil, 10},
		"a drip doesn't move the window":       {1000, every(1, 9, 1), 10},
		"nor does all but the last byte":       {1000, []got{{9, 9999}}, 10},
		"exactly the floor does":               {1000, []got{{9, 9999}, {9.5, 1}}, 19.5},
		"at the very end of the window too":    {1000, every(1, 10, 1000), 20},
		"what is more doesn't count for later": {1000, []got{{1, 1 << 30}, {2, 9999}}, 11},
		"each window is counted by itself":     {1000, []got{{1, 10000}, {2, 9999}, {3, 1}}, 13},
		"any byte will do with no floor":       {0, []got{{9, 1}}, 19},
		"and with less than none":              {-5, []got{{9, 1}}, 19},
		"but no bytes are silence":             {0, every(1, 9, 0), 10},
		"no bytes never fill a window":         {1000, []got{{1, 9999}, {2, 0}}, 10},
		"a floor nobody can reach":             {math.MaxInt64, every(1, 9, 1<<30), 10},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pace := domain.NewPace(10*time.Second, test.floor, start)
			for _, g := range test.got {
				pace.Got(g.n, at(g.at))
			}
			if got := pace.Deadline(); !got.Equal(at(test.deadline)) {
				t.Errorf("the deadline is %s after the start, not %v s", got.Sub(start), test.deadline)
			}
			if pace.TooSlow(at(test.deadline).Add(-1)) {
				t.Error("it is too slow before its deadline")
			}
			if !pace.TooSlow(at(test.deadline)) || !pace.TooSlow(at(test.deadline+1)) {
				t.Error("it isn't too slow from its deadline on")
			}
		})
	}
}

func TestPaceDoesNotCountTheReceiversOwnTime(t *testing.T) {
	pace := domain.NewPace(10*time.Second, 1000, start)
	pace.Got(9999, at(9))
	pace.Shift(5 * time.Second)
	if got := pace.Deadline(); !got.Equal(at(15)) {
		t.Errorf("the deadline is %s after the start, not 15 s", got.Sub(start))
	}
	pace.Got(1, at(14))
	if got := pace.Deadline(); !got.Equal(at(24)) {
		t.Errorf("what came before the pause is forgotten: the deadline is %s after the start, not 24 s", got.Sub(start))
	}
}
