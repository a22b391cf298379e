package vmnet

import (
	"context"
	"net"
	"time"
)

// Limits, for the tests of them.
const (
	MaxClosing    = maxClosing
	ReceiveBuffer = receiveBuffer
	OwnAge        = ownAge
)

// What is tested by itself.
var (
	AnswerDHCP  = answerDHCP
	Admitted    = admitted
	Forbidden   = forbidden
	DialOutside = dialOutside
	KeepOutside = keepOutside
)

// Half is a connection whose directions end one by one.
type Half = half

// Join joins two connections on a network that has nothing else, until ctx ends.
func Join(ctx context.Context, inside Half, outside net.Conn, patience time.Duration) {
	n := &Network{}
	n.crew.context = ctx
	n.join(inside, outside, patience)
}
