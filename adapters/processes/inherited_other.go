//go:build !linux

package processes

// HideInherited does nothing on this system.
func HideInherited() {}
