package wsshell_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// budget is a ports.ShellMemory as the host has it, shared by shells whose first windows are reserved.
type budget struct {
	mu   sync.Mutex
	left *domain.ShellBudget
}

func (b *budget) Take(want int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left.Take(want)
}

func (b *budget) Give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left.Give(n)
}

func (b *budget) Left() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left.Left()
}

// fill sends messages of so many bytes to both outputs for as long as it has credit, and returns how many
// bytes the host holds by then.
func (a *attacker) fill(sizes ...int) (sent int64) {
	var mu sync.Mutex
	credit := map[domain.Stream]int64{domain.Stdout: domain.ShellWindow, domain.Stderr: domain.ShellWindow}
	go func() {
		for {
			f, err := readFrame(a.conn)
			if err != nil {
				return
			}
			if len(f.payload) == 6 && f.payload[0] == byte(domain.FrameAck) {
				mu.Lock()
				credit[domain.Stream(f.payload[1])] += int64(binary.BigEndian.Uint32(f.payload[2:]))
				mu.Unlock()
			}
		}
	}()
	take := func(stream domain.Stream, size int) int {
		mu.Lock()
		defer mu.Unlock()
		n := min(int64(size), credit[stream])
		credit[stream] -= n
		return int(n)
	}
	var some []byte
	flush := func() {
		if err := a.sends(some); err != nil {
			a.t.Fatal(err)
		}
		some = nil
		synctest.Wait()
	}
	for _, stream := range []domain.Stream{domain.Stdout, domain.Stderr} {
		for i := 0; ; i++ {
			n := take(stream, sizes[i%len(sizes)])
			if n == 0 {
				flush() // there may be more yet
				if n = take(stream, sizes[i%len(sizes)]); n == 0 {
					break
				}
			}
			if some = append(some, output(stream, make([]byte, n))...); len(some) > 64<<10 {
				flush()
			}
			sent += int64(n)
		}
	}
	return sent
}

// heap is what is in use.
func heap() int64 {
	for range 3 { // what is in a pool takes two
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Shells whose output nobody reads hold what was granted, and little more, whatever the sizes of the messages;
// and what all of them were granted is within the guest's budget.
func TestThreats21To22WhatUnreadShellsHold(t *testing.T) {
	const shells = 8
	for _, test := range []struct {
		features domain.Features
		budget   int64
		sizes    []int
	}{
		{nil, 0, []int{3}},
		{nil, 0, []int{16 << 10}},
		{nil, 0, []int{1, 16 << 10}},
		{nil, 16 << 20, []int{5000}},
		{version2, 0, []int{4096, 1}},
		{version2, 0, []int{4097}},
		{version2, 0, []int{64 << 10}},
		{version2, 8 << 20, []int{1000}},
		{version2, 16 << 20, []int{97 << 10}},
		{version2, 16 << 20, []int{100 << 10}},
		{version2, 64 << 20, []int{100 << 10, 1}},
		{version2, 64 << 20, []int{128 << 10}},
		{version2, 64 << 20, []int{128 << 10, 33, 4096, 70_000, 1}},
	} {
		t.Run(fmt.Sprintf("version 2 %v, budget %d, messages of %d", test.features != nil, test.budget, test.sizes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				most := test.budget + shells*2*domain.ShellWindow
				memory := &budget{left: domain.NewShellBudget(most)}
				var all []*attacker
				for range shells {
					memory.left.Reserve(2)
					all = append(all, attackWith(t, test.features, ports.ShellTerms{Memory: memory}))
				}
				before := heap()
				var held int64
				for _, a := range all {
					held += a.fill(test.sizes...)
				}
				after := heap()
				if held > most {
					t.Errorf("the host has taken %d bytes of %d", held, most)
				}
				if test.budget > 0 && held < most/2 {
					t.Errorf("the host has taken %d bytes of %d: the budget is of no use", held, most)
				}
				const block = 132 << 10 // that is being read
				if in := after - before; in > held*3/2+block {
					t.Errorf("%d bytes are held, in %d", held, in)
				} else {
					t.Logf("%d bytes are held, in %d", held, in)
				}
				for _, a := range all {
					a.conn.Close()
					<-a.served
				}
				if left := memory.Left(); left > most-held {
					t.Errorf("%d of the budget of %d came back for what is held still", left, test.budget)
				}
				for _, a := range all {
					a.host.StdoutPipe().Close()
					a.host.StderrPipe().Close()
				}
				if left := memory.Left(); left != test.budget {
					t.Errorf("%d of the budget of %d came back", left, test.budget)
				}
				runtime.KeepAlive(all)
			})
		})
	}
}

// An announced message costs its reader one block, however large it says it is.
func TestThreat17AnAnnouncedMessageHoldsNothing(t *testing.T) {
	for _, size := range []int64{132 << 10, 1 << 30, 1 << 62} {
		synctest.Test(t, func(t *testing.T) {
			a := attack(t, version2, domain.ShellSpec{})
			before := heap()
			if err := a.sends(header(opBinary, size), []byte{1, 2, 3}); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if in := heap() - before; in > 1<<20 {
				t.Errorf("%d bytes are held for a message of %d", in, size)
			}
			a.conn.Close()
			<-a.served
		})
	}
}
