package domain_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hexworker/metaservice/domain"
)

func TestRate(t *testing.T) {
	type step struct {
		after time.Duration // the step before
		take  int           // so many
		got   int           // of them
		give  int           // of these back
	}
	for name, steps := range map[string][]step{
		"a burst, and no more":           {{take: 10, got: 4}},
		"then one for each tenth second": {{take: 10, got: 4}, {after: 99 * time.Millisecond, take: 2}, {after: time.Millisecond, take: 2, got: 1}},
		"a rest gives back all":          {{take: 4, got: 4}, {after: 400 * time.Millisecond, take: 9, got: 4}},
		"and no more than that":          {{take: 4, got: 4}, {after: time.Hour, take: 9, got: 4}},
		"steadily":                       {{take: 4, got: 4}, {after: time.Second, take: 4, got: 4}, {after: time.Second, take: 4, got: 4}},
		"what is given back can be had":  {{take: 4, got: 4, give: 2}, {take: 9, got: 2}},
		"but the bucket has its size":    {{take: 1, got: 1, give: 1}, {take: 9, got: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			rate := domain.NewRate(10, 4)
			for i, s := range steps {
				now = now.Add(s.after)
				got := 0
				for range s.take {
					if rate.Take(now) {
						got++
					}
				}
				if got != s.got {
					t.Errorf("step %d: %d were taken, not %d", i, got, s.got)
				}
				for range s.give {
					rate.Give()
				}
			}
		})
	}
}

// Whatever the rate is and however it is asked, in no time is more taken than the burst and what came back
// in that time; and whoever waits as long as he is told gets one.
func TestRateHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond := rapid.IntRange(-1, 2_000_000_000).Draw(t, "per second")
		burst := rapid.IntRange(-1, 1<<62).Draw(t, "burst")
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		rate := domain.NewRate(perSecond, burst)
		begun, taken := now, 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "passes")))
			wait := rate.Wait(now)
			took := rate.Take(now)
			if took != (wait == 0) {
				t.Fatalf("taken: %t, though the wait is %s", took, wait)
			}
			if took {
				taken++
			} else if now = now.Add(wait); !rate.Take(now) {
				t.Fatalf("after a wait of %s there is none", wait)
			} else {
				taken++
			}
			each := max(time.Second/time.Duration(max(perSecond, 1)), 1)
			if most := float64(max(burst, 1)) + float64(now.Sub(begun))/float64(each) + 1; float64(taken) > most {
				t.Fatalf("%d were taken in %s: the most is %f", taken, now.Sub(begun), most)
			}
		}
	})
}

func TestSeldom(t *testing.T) {
	var told []uint64
	var seldom domain.Seldom
	for range 100 {
		if seldom.Again() {
			told = append(told, uint64(seldom))
		}
	}
	want := []uint64{1, 2, 3, 4, 8, 16, 32, 64}
	if len(told) != len(want) {
		t.Fatalf("it was told at %v, not at %v", told, want)
	}
	for i := range want {
		if told[i] != want[i] {
			t.Errorf("it was told at %v, not at %v", told, want)
		}
	}
}

// What somebody has set counts, even where it is the number that the default begins with.
func TestKeepFree(t *testing.T) {
	limits, err := domain.Limits{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if got := limits.KeepFree(1 << 40); got != 1<<30 {
		t.Errorf("of a large disk it keeps %d", got)
	}
	if got := limits.KeepFree(1 << 20); got != 1<<20/20 {
		t.Errorf("of a small disk it keeps %d", got)
	}
	for _, told := range []int64{5, 1 << 30} {
		limits, err := domain.Limits{DiskFree: told}.WithDefaults()
		if err != nil {
			t.Fatal(err)
		}
		if got := limits.KeepFree(1 << 20); got != told {
			t.Errorf("it keeps %d where it is told %d", got, told)
		}
	}
}

// Who reserves comes in turn, and before whoever comes later; what would come too late isn't taken.
func TestRateReserves(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rate := domain.NewRate(10, 2)
	for i, want := range []time.Duration{0, 0, 100, 200, 300} {
		if wait, ok := rate.Reserve(now, 300*time.Millisecond); !ok || wait != want*time.Millisecond {
			t.Errorf("reservation %d waits for %s, %t", i, wait, ok)
		}
	}
	if wait, ok := rate.Reserve(now, 300*time.Millisecond); ok || wait != 0 {
		t.Errorf("one too many waits for %s", wait)
	}
	if rate.Take(now.Add(399 * time.Millisecond)) {
		t.Error("what is reserved was taken")
	}
	if !rate.Take(now.Add(400 * time.Millisecond)) {
		t.Error("behind all that is reserved there is nothing")
	}
}
