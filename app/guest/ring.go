package guest

import "sync"

// ring is a buffer of fixed size between one goroutine that fills it and one that empties it. Both work
// in its memory, on different parts of it: nothing is copied, and the more the one falls behind, the
// larger the pieces that it gets.
type ring struct {
	buf    []byte
	filled chan struct{} // signals that there may be more to take
	plenty chan struct{} // signals that there may be a block, or more, to take
	freed  chan struct{} // signals that there may be more room

	mu    sync.Mutex
	start int // of what is in it
	n     int // how much that is
}

func newRing(size int) *ring {
	return &ring{buf: make([]byte, size), filled: make(chan struct{}, 1), plenty: make(chan struct{}, 1), freed: make(chan struct{}, 1)}
}

// room is where more can be put, up to the end of the memory; it waits until there is any.
func (r *ring) room() []byte {
	for {
		if room := r.roomNow(); len(room) > 0 {
			return room
		}
		<-r.freed
	}
}

func (r *ring) roomNow() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == len(r.buf) {
		return nil
	}
	end := r.start + r.n
	if end >= len(r.buf) {
		return r.buf[end-len(r.buf) : r.start]
	}
	return r.buf[end:]
}

// put adds the first n bytes of room.
func (r *ring) put(n int) {
	r.mu.Lock()
	r.n += n
	block := r.n >= logBlock
	r.mu.Unlock()
	signal(r.filled)
	if block {
		signal(r.plenty)
	}
}

// held is what can be taken next, up to the end of the memory. It doesn't wait.
func (r *ring) held() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf[r.start:min(r.start+r.n, len(r.buf))]
}

// take removes the first n bytes of held. Where the next bytes are put doesn't change by it: somebody may
// be filling that room.
func (r *ring) take(n int) {
	r.mu.Lock()
	r.n -= n
	r.start = (r.start + n) % len(r.buf)
	r.mu.Unlock()
	signal(r.freed)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
