//go:build !linux

package wire

import "net"

// DontPace does nothing here: no other system paces what is sent within a machine.
func DontPace(net.Conn) {}
