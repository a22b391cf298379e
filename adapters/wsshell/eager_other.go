//go:build !linux

package wsshell

import (
	"net"
	"time"
)

type eager struct{}

func newEager(net.Conn) *eager { return nil }

func (*eager) read([]byte, time.Duration) (int, error, bool) { return 0, nil, false }
