package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
)

// endpoint is one row of the matrix: the request that fails, and what is asked of the guest so that it is made.
type endpoint struct {
	name    string
	request string
	ask     string // artifact, list, shell or kill
	exit    int    // of the task
	old     bool   // the guest is one of version 1
	body    int    // bytes of its body that get through before it fails in the middle; 0 is no body
}

var endpoints = []endpoint{
	{name: "hello", request: "POST " + wire.PathHello, ask: "artifact", body: 10},
	{name: "execute", request: "GET " + wire.PathExecute, ask: "artifact"},
	{name: "log", request: "POST " + wire.PathLog, ask: "artifact", body: 10_000},
	{name: "success", request: "PUT " + wire.PathSuccess, ask: "artifact", body: 10},
	{name: "failed", request: "PUT " + wire.PathFailed, ask: "artifact", exit: 3, body: 10},
	{name: "poll", request: "GET " + wire.PathPoll, ask: "artifact"},
	{name: "artifact", request: "POST " + wire.PathReply, ask: "artifact", body: 50_000},
	{name: "large", request: "POST " + wire.PathReply, ask: "artifact", body: 1_200_000},
	{name: "list", request: "POST " + wire.PathReply, ask: "list", body: 1000},
	{name: "shell1", request: "GET " + wire.PathReply, ask: "shell", old: true, body: 5000},
	{name: "shell2", request: "GET " + wire.PathReply, ask: "shell", body: 5000},
	{name: "kill", request: "POST " + wire.PathReply, ask: "kill"},
}

// artifact is the file that the guest is asked for, and what is in it.
func (e endpoint) artifact() (path, content string) {
	if e.name == "large" {
		return "large", large
	}
	return "file", artifact
}

// cell is one field of the matrix.
type cell struct {
	endpoint endpoint
	kind     Kind
	moment   Moment
}

func (c cell) String() string {
	return fmt.Sprintf("%s/%s/%s", c.endpoint.name, c.kind, c.moment)
}

// The times of a cell, so long that a busy machine keeps them and no longer.
const (
	cellPause = 150 * time.Millisecond // nobody gives up
	cellStall = 2500 * time.Millisecond
)

func (c cell) fault() Fault {
	f := Fault{Request: c.endpoint.request, Kind: c.kind, Moment: c.moment, Body: c.endpoint.body, Rate: 512 << 10}
	switch c.kind {
	case Latency:
		f.Time = 3 * time.Millisecond
	case Stall:
		f.Time = cellStall
	default:
		f.Time = cellPause
	}
	return f
}

// allCells is the whole matrix, without the bodies of requests that have none.
func allCells() []cell {
	var all []cell
	for _, e := range endpoints {
		for _, kind := range Kinds() {
			for _, moment := range Moments() {
				if moment != AmidBody || e.body > 0 {
					all = append(all, cell{e, kind, moment})
				}
			}
		}
	}
	return all
}

// sampleCells are cells in which every two of an endpoint, a fault and a moment meet, as far as they do at
// all. It is the same sample each time, or a failure could not be repeated.
func sampleCells() []cell {
	all := allCells()
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	met := make(map[[2]string]bool)
	pairs := func(c cell) [][2]string {
		e, k, m := c.endpoint.name, c.kind.String(), c.moment.String()
		return [][2]string{{e, k}, {e, m}, {k, m}}
	}
	news := func(c cell) (n int) {
		for _, pair := range pairs(c) {
			if !met[pair] {
				n++
			}
		}
		return n
	}
	var sample []cell
	for {
		best := slices.MaxFunc(all, func(a, b cell) int { return news(a) - news(b) })
		if news(best) == 0 {
			return sample
		}
		for _, pair := range pairs(best) {
			met[pair] = true
		}
		sample = append(sample, best)
	}
}

// chosenCells are those that a list of patterns names, each of which may have a * for any word.
func chosenCells(patterns string) []cell {
	return slices.DeleteFunc(allCells(), func(c cell) bool {
		return !slices.ContainsFunc(strings.Split(patterns, ","), func(pattern string) bool {
			want, is := strings.Split(pattern, "/"), strings.Split(c.String(), "/")
			if len(want) != len(is) {
				return false
			}
			for i := range want {
				if want[i] != "*" && want[i] != is[i] {
					return false
				}
			}
			return true
		})
	})
}
