// Package soak runs many sandboxes at once for a while, ends them at random moments in every way that
// there is, and then sees that each has ended once, as it may, and that nothing is left.
//
// A run takes 5 s for each machine, 30 s where the environment variable CI is set, and 5 minutes with the
// flag -long. It prints its seed; the flag -seed runs with the same choices again, though not at the same
// moments.
package soak
