// Package ports holds the interfaces at which the house's layers meet: what a guest may ask of its
// host, what the host needs (a machine, storage, a log sink, ids), and what the guest's tools need (a
// host, processes, files).
//
// Each comment is a contract: who closes, whether it may block, which errors there are. Whatever
// implements a port runs the suite of the package tests/contract that belongs to it, fakes too.
package ports
