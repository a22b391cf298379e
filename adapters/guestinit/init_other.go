//go:build !linux

package guestinit

// Wanted tells whether this process is to be init: only Linux starts one of ours.
func Wanted() bool { return false }

// Main is never called.
func Main() {}
