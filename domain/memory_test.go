package domain_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/hexworker/metaservice/domain"
)

// One shell, with 4 MiB wanted for each of its outputs, has them; a crowd shares what is left.
func TestShellBudget(t *testing.T) {
	const window, most = 64 << 10, 4 << 20
	b := domain.NewShellBudget(16 << 20)
	if got := b.Reserve(2); got != 2*window {
		t.Errorf("the first shell's windows: %d", got)
	}
	if got := b.Take(most - window); got != most-window {
		t.Errorf("the first output gets %d", got)
	}
	second := b.Take(most - window)
	if second < 2<<20 || second >= most-window {
		t.Errorf("the second output gets %d", second)
	}
	before := b.Left()
	last := second
	for range 200 {
		got := b.Take(most)
		if got > last || got < 0 {
			t.Fatalf("after one that got %d one gets %d", last, got)
		}
		last = got
	}
	if b.Left() <= 0 && before > 4 {
		t.Error("takers by the quarter leave nothing")
	}
	for b.Left() > 0 {
		b.Reserve(2)
	}
	if got := b.Reserve(1) + b.Take(1); got != 0 {
		t.Errorf("of nothing one gets %d", got)
	}
	b.Give(8)
	if got := b.Take(100); got != 2 {
		t.Errorf("a quarter of 8 is %d", got)
	}
}

func TestShellBudgetNeverSharesOutMoreThanThereIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Int64Range(0, 1<<20).Draw(t, "most")
		b := domain.NewShellBudget(most)
		var out int64
		var taken []int64
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if b.Left() < 0 || b.Left()+out != most {
					t.Fatalf("%d are left and %d are out, of %d", b.Left(), out, most)
				}
			},
			"take": func(t *rapid.T) {
				want := rapid.Int64Range(-10, 2<<20).Draw(t, "want")
				got := b.Take(want)
				if got < 0 || got > max(want, 0) {
					t.Fatalf("who wants %d gets %d", want, got)
				}
				taken, out = append(taken, got), out+got
			},
			"reserve": func(t *rapid.T) {
				got := b.Reserve(rapid.IntRange(0, 3).Draw(t, "outputs"))
				taken, out = append(taken, got), out+got
			},
			"give": func(t *rapid.T) {
				if len(taken) > 0 {
					b.Give(taken[0])
					out -= taken[0]
					taken = taken[1:]
				}
			},
		})
	})
}
