// Package faults breaks the way between a guest and its host on purpose, and the host's own sink, disk and
// descriptors, and sees what holds all the same: the invariants I1 to I12.
//
// A Proxy stands between a real guest side and a real host side, and does to one request's connection, at
// one moment of it, what networks do. The matrix is every endpoint by every fault by every moment. By
// default a sample of it runs, always the same, in which every two of them meet; with the flag -long all of
// it does, and with -cells those that are named, such as "log/reset/amid-body": a cell that fails prints the
// command that repeats it.
package faults
