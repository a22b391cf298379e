// Package threats holds a test for each threat that docs/threats.md tells: a host in a process of its own,
// an attacker in another, and bytes that are written by hand. What it costs the host is told by its own
// counts and its rusage, beside those of a control run.
package threats
