//go:build unix

package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/tests/bench/figures"
)

// levels are how many guests there are at a time.
var levels = []int{1, 3, 10, 30, 100, 300, 1000}

const (
	// idleTime is how long idle guests are watched: one hold of their polls, so that each is renewed once.
	idleTime = domain.MaxHold
	// busyTime is how long those are watched that talk.
	busyTime = 5 * time.Second
)

// BenchmarkIdle is what guests cost their host while their tasks run and say nothing: a poll is parked, and a log is
// open. The host is a process of its own, and the guests, real ones but for their tasks' processes, are another;
// there is a pair of processes for each number of guests. What idles does so at the same time.
func BenchmarkIdle(b *testing.B) {
	for range b.N {
		crowds := make([]*crowd, len(levels))
		for i, n := range levels {
			crowds[i] = newCrowd(b, n, "/start")
		}
		idle := make([]float64, len(levels))
		var watched sync.WaitGroup
		for i, c := range crowds {
			watched.Go(func() { idle[i] = c.usage(b, idleTime) })
		}
		watched.Wait()
		growth := make([]figures.Point, len(levels))
		for i, c := range crowds {
			growth[i] = c.point(b, idle[i])
			fmt.Printf("%d guests: %.2f MiB, %.1f MiB resident, %d goroutines; %.3f %% of a core idle, %.2f %% busy\n", c.n,
				growth[i].Heap, growth[i].Resident, growth[i].Goroutines, growth[i].Idle, growth[i].Busy)
		}
		figures.Keep(b, figures.GrowthName, growth)
		last := len(levels) - 1
		reportIdle(b, crowds[last], newCrowd(b, levels[last], "/bare"), growth[last])
	}
}

// reportIdle reports what each of many guests costs, beside what it costs a bare server.
func reportIdle(b *testing.B, ours, bare *crowd, last figures.Point) {
	const netHTTP = "a bare net/http server with the same requests open"
	report := func(what, unit, beside string, ours, limit, wanted float64) {
		figures.Figure{What: what, Unit: unit, Ours: []float64{ours}, Beside: beside, Limit: []float64{limit}, Less: true, Wanted: wanted}.Report(b)
	}
	report("1,000 idle guests' CPU", "% of a core", "a bound", last.Idle, 1, 1)
	report("an idle guest's goroutines", "", netHTTP, ours.each(goroutines), bare.each(goroutines), 0)
	const bound = 32 // KiB
	report("an idle guest's memory", "KiB", netHTTP, ours.each(memory), bare.each(memory), 1)
	report("an idle guest's memory, and the bound", "KiB", "a bound", ours.each(memory), bound, 1)
	ours.end(b)
	bare.end(b)
	report("an idle guest's memory, its task over", "KiB", netHTTP, ours.each(memory), bare.each(memory), 1)
	report("an idle guest's memory, its task over, and the bound", "KiB", "a bound", ours.each(memory), bound, 1)
}

func memory(t taken) float64 { return t.Memory / 1024 }

func goroutines(t taken) float64 { return t.Goroutines }

// crowd is a host with many guests.
type crowd struct {
	n            int
	host, guests *sender
	empty, idle  taken
}

// taken is what a host has taken.
type taken struct {
	Memory     float64 // bytes of the heap that can be reached, and of stacks
	Resident   float64 // bytes
	Goroutines float64
	Lines      int64   // that have come of all logs
	CPU        float64 // seconds
}

// newCrowd returns when all guests idle.
func newCrowd(b *testing.B, n int, start string) *crowd {
	b.Helper()
	c := &crowd{n: n}
	c.host = &sender{newRelay(b, "bench-host", nil), bareClient()}
	c.guests = &sender{newRelay(b, "bench-guests", nil), bareClient()}
	c.host.ask(b, "/taken", nil, &c.empty)
	var addresses []string
	c.host.ask(b, start, n, &addresses)
	c.guests.ask(b, "/start", addresses, nil)
	for over := time.Now().Add(time.Minute); c.idle.Lines < int64(n); time.Sleep(50 * time.Millisecond) {
		c.host.ask(b, "/usage", nil, &c.idle)
		if time.Now().After(over) {
			b.Fatalf("only %d of %d guests are there", c.idle.Lines, n)
		}
	}
	c.host.ask(b, "/taken", nil, &c.idle)
	return c
}

// each is what one guest takes.
func (c *crowd) each(what func(taken) float64) float64 {
	return (what(c.idle) - what(c.empty)) / float64(c.n)
}

// end has the tasks end. What is left is one poll of each guest, and what their hosts know of them.
func (c *crowd) end(b *testing.B) {
	b.Helper()
	c.guests.ask(b, "/end", nil, nil)
	c.host.ask(b, "/taken", nil, &c.idle) // it waits for calm
	c.guests.ask(b, "/hangup", nil, nil)
	c.host.ask(b, "/taken", nil, &c.idle)
}

// usage watches the host for a while: its share of a core, in percent.
func (c *crowd) usage(b *testing.B, d time.Duration) float64 {
	var before, after taken
	start := time.Now()
	c.host.ask(b, "/usage", nil, &before)
	time.Sleep(d)
	c.host.ask(b, "/usage", nil, &after)
	return (after.CPU - before.CPU) / time.Since(start).Seconds() * 100
}

// point lets the guests talk, and sums up.
func (c *crowd) point(b *testing.B, idle float64) figures.Point {
	var before, after taken
	c.host.ask(b, "/usage", nil, &before)
	c.guests.ask(b, "/talk", true, nil)
	busy := c.usage(b, busyTime)
	c.guests.ask(b, "/talk", false, nil)
	c.host.ask(b, "/usage", nil, &after)
	if lines, least := after.Lines-before.Lines, int64(c.n)*int64(busyTime/time.Second-1); lines < least {
		b.Fatalf("%d lines came of %d guests", lines, c.n)
	}
	return figures.Point{Guests: c.n, Heap: c.idle.Memory / (1 << 20), Resident: c.idle.Resident / (1 << 20),
		Goroutines: int(c.idle.Goroutines), Idle: idle, Busy: busy}
}

// ask has the other process do something: question and answer are JSON.
func (s *sender) ask(b *testing.B, what string, question, answer any) {
	b.Helper()
	body, err := json.Marshal(question)
	must(b, err)
	response, err := s.client.Post("http://"+s.address+what, "application/json", bytes.NewReader(body))
	if err != nil {
		b.Error(err) // it may be called by any goroutine
		return
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	} else if answer != nil {
		err = json.NewDecoder(response.Body).Decode(answer)
	}
	if err != nil {
		b.Errorf("%s: %v", what, err)
	}
}

// answerer answers what ask asks: f returns what is to be answered.
func answerer[Question any](f func(Question) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var question Question
		err := json.NewDecoder(r.Body).Decode(&question)
		var answer any
		if err == nil {
			answer, err = f(question)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, r.URL.Path+":", err)
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(answer) // who asked sees that it is missing
	}
}
