// Package bench holds the benchmarks: what the two programs reach between them, each beside a limit that
// is measured in turns with it, in the same run. Machines are noisy; ratios of medians are less so.
//
//	make bench
//
// Guest and host run in one process here, over TCP on loopback, and so does each limit.
package bench
