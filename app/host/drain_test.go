package host_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
)

// poured is a log body that brings so much with each Read until its guest has had enough, and counts.
type poured struct {
	size  int
	until time.Time
	bytes int64
	reads int64
}

func (p *poured) Read(b []byte) (int, error) {
	if !time.Now().Before(p.until) {
		return 0, io.EOF
	}
	n := min(p.size, len(b))
	p.bytes += int64(n)
	p.reads++
	return n, nil
}

// Threat 4: 1,490 MiB a second were read, and dropped, for as long as the guest sent them. No body of a log
// that is dropped is read faster than 8 MiB a second, or than 256 times, however many there are.
func TestWhatIsDroppedOfALogIsReadSlowly(t *testing.T) {
	const (
		bodies = 3
		lasts  = 10 * time.Second
	)
	for name, change := range map[string]func(*host.Config){
		"at the limit":    func(c *host.Config) { c.Limits.LogBytes = 1 },
		"the sink failed": func(c *host.Config) { c.Log = &failing{err: errors.New("no space left on device")} },
	} {
		for _, size := range []int{1, 4 << 10, 1 << 20} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newService(t, change)
					until := time.Now().Add(lasts)
					var all [bodies]poured
					ended := make(chan error, bodies)
					for i := range all {
						all[i] = poured{size: size, until: until}
						go func() { ended <- s.Log(t.Context(), &all[i]) }()
					}
					for range bodies {
						<-ended
					}
					if late := time.Since(until); late > time.Second {
						t.Errorf("it ends %s after its guest", late)
					}
					var bytes, reads int64
					for i := range all {
						bytes, reads = bytes+all[i].bytes, reads+all[i].reads
					}
					const most = 8<<20*int64(lasts/time.Second) + 8<<20
					if bytes > most || reads > 256*int64(lasts/time.Second)+256 {
						t.Errorf("%d bytes at a time: %d bytes were read in %d reads", size, bytes, reads)
					}
					if size == 1<<20 && bytes < most*2/3 {
						t.Errorf("only %d bytes were read: the guest is held up", bytes)
					}
				})
			})
		}
	}
}

// A drain that waits doesn't hold up the end of its request, or of the service, and reads no more after it.
func TestADrainEndsAtOnce(t *testing.T) {
	for name, end := range map[string]func(s *host.Service, cancel context.CancelFunc){
		"Close":       func(s *host.Service, _ context.CancelFunc) { s.Close() },
		"the request": func(_ *host.Service, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, func(c *host.Config) { c.Limits.LogBytes = 1 })
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				body := &poured{size: 1 << 20, until: time.Now().Add(time.Hour)}
				go func() { ended <- s.Log(ctx, body) }()
				synctest.Wait() // it waits
				begun, reads := time.Now(), body.reads
				end(s, cancel)
				err := <-ended
				if took := time.Since(begun); err == nil || took > 0 || body.reads > reads {
					t.Errorf("it takes %s and %d reads, %v", took, body.reads-reads, err)
				}
			})
		})
	}
}
