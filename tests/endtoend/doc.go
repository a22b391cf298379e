// Package endtoend runs both real programs, or the real guest-tools below a host in the test's own
// process, where only that shows what must hold: that nothing is lost and nothing is left.
package endtoend
