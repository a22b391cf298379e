package main

import (
	"os"
	"sync"

	"golang.org/x/term"
)

// guardCommand is the hidden first argument under which metaservice guards a terminal that is raw.
const guardCommand = "terminal-guard"

// terminal is the one that metaservice was started in, if there is one.
type terminal struct {
	keys  int   // the descriptor that is typed into
	sized []int // those that may know the size
	say   *outlet

	mu     sync.Mutex  // guards what follows
	before *term.State // nil while it isn't raw
	guard  *guard
}

func newTerminal(to streams, say *outlet) *terminal {
	t := &terminal{keys: -1, say: say}
	if isTerminal(to.in) {
		t.keys = descriptor(to.in)
	}
	for _, stream := range []any{to.out, to.in, to.err} {
		if isTerminal(stream) {
			t.sized = append(t.sized, descriptor(stream))
		}
	}
	return t
}

// descriptor is that of a file, or -1.
func descriptor(stream any) int {
	if file, ok := stream.(*os.File); ok {
		return int(file.Fd())
	}
	return -1
}

func isTerminal(stream any) bool {
	fd := descriptor(stream)
	return fd >= 0 && term.IsTerminal(fd)
}

// size is 0 where nobody knows it.
func (t *terminal) size() (columns, rows uint16) {
	for _, fd := range t.sized {
		if columns, rows, err := term.GetSize(fd); err == nil && columns > 0 && rows > 0 {
			return uint16(min(columns, 1<<16-1)), uint16(min(rows, 1<<16-1))
		}
	}
	return 0, 0
}

// raw has every key passed on as it is. One that can't be set stays as it was.
func (t *terminal) raw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before != nil {
		return
	}
	guard := newGuard(t.keys)
	before, err := term.MakeRaw(t.keys)
	if err != nil {
		guard.end()
		return
	}
	guard.watch()
	t.before, t.guard = before, guard
	t.say.raw.Store(true)
}

// again is for a terminal that was raw, and may have been changed by a shell that had us stopped meanwhile.
func (t *terminal) again() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before != nil {
		_, _ = term.MakeRaw(t.keys)
	}
}

// restore undoes raw. Any number of times.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before == nil {
		return
	}
	_ = term.Restore(t.keys, t.before) // a terminal that is gone needs none
	t.guard.end()
	t.before, t.guard = nil, nil
	t.say.raw.Store(false)
}

// restoreInPanic is to be deferred by goroutines that go on while the terminal is raw.
func (t *terminal) restoreInPanic() {
	if broken := recover(); broken != nil {
		t.restore()
		panic(broken)
	}
}
