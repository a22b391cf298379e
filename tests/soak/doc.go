// Package soak runs many sandboxes at once for a while, ends them at random moments in every way that
// there is, and then sees that each has ended once, as it may, and that nothing is left. Meanwhile it samples
// what the process holds (memory, goroutines, descriptors, child processes), which must not grow.
//
// There are three machines: guests that are scripts, guest-tools on the process machine, and guests behind
// proxies that break their connections in all ways of package faults.
//
// A run takes 5 s for each machine, 20 s where the environment variable CI is set, 5 minutes with the flag
// -long, and anything with -duration. It prints its seed; the flag -seed runs with the same choices again,
// though not at the same moments.
package soak
