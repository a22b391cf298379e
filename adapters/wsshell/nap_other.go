//go:build !linux

package wsshell

import "time"

func nap(d time.Duration) { time.Sleep(d) }
