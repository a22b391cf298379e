package host_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
)

// scripted is a log body that brings so much with each Read, then is silent until it is ended, and tells how much it
// could bring with each.
type scripted struct {
	brings []int
	room   chan int
	end    chan struct{}
}

func newScripted(brings ...int) *scripted {
	return &scripted{brings, make(chan int, 100), make(chan struct{})}
}

func (s *scripted) Read(p []byte) (int, error) {
	s.room <- len(p)
	if len(s.brings) == 0 {
		<-s.end
		return 0, io.EOF
	}
	n := min(s.brings[0], len(p))
	s.brings = s.brings[1:]
	return n, nil
}

// A log that went silent behind the end of a burst kept the megabyte into which that was read.
func TestASilentLogHoldsNoLargeBuffer(t *testing.T) {
	const small, large = 512, 1 << 20
	for name, test := range map[string]struct {
		brings []int
		room   []int
	}{
		"nothing":                  {nil, []int{small}},
		"little":                   {[]int{100, 100}, []int{small, small, small}},
		"the end of a burst":       {[]int{small, 60 << 10}, []int{small, large, small}},
		"a long burst":             {[]int{small, large, large, large - 1}, []int{small, large, large, large, small}},
		"a burst after a silence":  {[]int{1, small, 1, small, large}, []int{small, small, large, small, large, large}},
		"chunk after chunk of one": {[]int{small, 108 << 10, small, 108 << 10}, []int{small, large, small, large, small}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, nil)
				body, ended := newScripted(test.brings...), make(chan error, 1)
				go func() { ended <- s.Log(t.Context(), body) }()
				synctest.Wait()
				for i, want := range test.room {
					if got := <-body.room; got != want {
						t.Errorf("read %d has room for %d bytes, not %d", i, got, want)
					}
				}
				close(body.end)
				if err := <-ended; err != nil || len(body.room) > 0 {
					t.Errorf("%v, and %d more reads", err, len(body.room))
				}
			})
		})
	}
}

// A guest that knows how logs are read has each of 64 go silent where a large buffer waits for it: it gets a few.
func TestSilentLogsHoldFewLargeBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		for range 2 { // what has ended has given its buffer back
			ended := make(chan error)
			bodies := make([]*scripted, 64)
			large := 0
			for i := range bodies {
				bodies[i] = newScripted(4 << 10)
				go func() { ended <- s.Log(t.Context(), bodies[i]) }()
				<-bodies[i].room
				if <-bodies[i].room > 4<<10 {
					large++
				}
			}
			if large != 8 {
				t.Errorf("%d bodies hold a large buffer, 8 may", large)
			}
			for _, body := range bodies {
				close(body.end)
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// Threat 4: a log that comes byte by byte kept two thirds of a core busy for as long as LogBytes are many. What is
// behind the pieces is read no more often than 1,000 times a second, however many bodies there are, and twice as often
// where every other Read fills the small buffer; what comes more slowly, or in larger pieces, isn't held up.
func TestPiecesOfALogAreReadSlowly(t *testing.T) {
	const (
		bodies = 3
		lasts  = 10 * time.Second
	)
	for size, each := range map[int]int64{1: 1, 511: 1, 1023: 2} {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, func(c *host.Config) { c.Limits.LogBytes = 1 << 40 })
			until := time.Now().Add(lasts)
			var all [bodies]poured
			ended := make(chan error, bodies)
			for i := range all {
				all[i] = poured{size: size, until: until}
				go func() { ended <- s.Log(t.Context(), &all[i]) }()
			}
			var reads int64
			for range bodies {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			for _, body := range all {
				reads += body.reads
			}
			if want := int64(1000+1000*lasts/time.Second) * each; reads < want-2*bodies || reads > want+2*bodies {
				t.Errorf("pieces of %d bytes: %d reads, not %d", size, reads, want)
			}
			if late := time.Since(until); late > 10*time.Millisecond {
				t.Errorf("it ends %s after its guest", late)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		begun := time.Now()
		brings := make([]int, 1000)
		for i := range brings {
			brings[i] = 1 << 10
		}
		body := newScripted(append(brings, 1, 1, 1)...)
		body.room = make(chan int, 2000)
		close(body.end)
		if err := s.Log(t.Context(), body); err != nil || time.Since(begun) > 0 {
			t.Errorf("pieces of 1 KiB took %s: %v", time.Since(begun), err)
		}
	})
}
