//go:build linux

package soak

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// use is what this process held, sample by sample.
type use struct {
	heap, resident, goroutines, files, children []float64
}

// leastSamples are one for each third; a busy machine may take seconds for one.
const leastSamples = 3

// sampleFor samples until d is over, thirty times, and no less often than it takes.
func sampleFor(d time.Duration) *use {
	u := new(use)
	over := time.After(d)
	tick := time.NewTicker(d / 30)
	defer tick.Stop()
	for {
		select {
		case <-over:
			for len(u.heap) < leastSamples {
				u.sample()
			}
			return u
		case <-tick.C:
			u.sample()
		}
	}
}

func (u *use) sample() {
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	u.heap = append(u.heap, float64(memory.HeapAlloc)/(1<<20))
	u.goroutines = append(u.goroutines, float64(runtime.NumGoroutine()))
	u.files = append(u.files, float64(len(openFiles())))
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if pages, err := strconv.Atoi(strings.Fields(string(text))[1]); err == nil {
			u.resident = append(u.resident, float64(pages*os.Getpagesize())/(1<<20))
		}
	}
	children := 0
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		text, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		children += len(strings.Fields(string(text)))
	}
	u.children = append(u.children, float64(children))
}

// longEnough is for how long a soak must last for its use to say anything: what is random in it evens out, and
// caches are filled after the first third.
const longEnough = 15 * time.Second

const residentName = "MiB resident"

// judge compares the middle third with the last: between them nothing may grow but by chance. How many of the
// sandboxes that there are at once are amid their tasks is chance, too: a busy machine has fewer of them there.
func (u *use) judge(t *testing.T, sandboxes int) {
	t.Helper()
	for _, kind := range []struct {
		what    string
		samples []float64
		chance  float64 // by which the median of ten samples may differ, beside a quarter
	}{
		{"MiB of heap", u.heap, max(8, float64(sandboxes)/8)},
		{residentName, u.resident, 32},
		{"goroutines", u.goroutines, max(300, 6*float64(sandboxes))},
		{"descriptors", u.files, 100},
		{"children", u.children, 50},
	} {
		n := len(kind.samples) / 3
		if n == 0 {
			t.Errorf("no samples of %s", kind.what)
			continue
		}
		middle, last := median(kind.samples[n:2*n]), median(kind.samples[2*n:])
		fmt.Printf("%s: %.0f %s amid the run, %.0f in its last third, %.0f at most\n", t.Name(), middle, kind.what, last, slices.Max(kind.samples))
		if raceDetector && kind.what == residentName {
			continue
		}
		if lasts() >= longEnough && last > middle*1.25+kind.chance {
			t.Errorf("%s grow: %.0f", kind.what, kind.samples)
		}
	}
}

func median(samples []float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[len(sorted)/2]
}

// noneLeft polls until no more descriptors are open than before: package os keeps the pipes that it splices by
// until the second collection.
func noneLeft(t *testing.T, before []string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		runtime.GC()
		now := openFiles()
		if len(now) <= len(before) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("descriptors are left: there were %q, there are %q", before, now)
			return
		}
	}
}
