package wsshell

import (
	"time"

	"golang.org/x/sys/unix"
)

// nap blocks the thread. Go's own sleep would wait for files, too, and be woken by every write of the child
// whose pipe is to fill up: that costs twice as much as all the rest.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // a signal ends it early: no harm
}
