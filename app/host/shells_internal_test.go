package host

import (
	"runtime"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// A shell that is over needs no closing: what it holds counts while somebody can read it, and no longer.
func TestTheMemoryOfAForgottenShell(t *testing.T) {
	const all = 1 << 20
	m := &shellMemory{budget: domain.NewShellBudget(all)}
	left := func() int64 {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.budget.Left()
	}
	one := m.of(domain.ShellSpec{})
	taken := one.Take(all)
	one.close()
	runtime.GC()
	if got := left(); taken == 0 || got != all-taken {
		t.Errorf("%d are left beside %d that are held", got, taken)
	}
	runtime.KeepAlive(one)
	one = nil
	for end := time.Now().Add(10 * time.Second); left() != all; runtime.GC() {
		if time.Now().After(end) {
			t.Fatalf("%d are left once nobody can read it", left())
		}
		runtime.Gosched()
	}
}
