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
	MaxHeld       = maxHeld
	MaxOutgoing   = maxOutgoing
	SendBuffer    = sendBuffer
	// ForwardCost is what one connection out costs: what the guest doesn't acknowledge, what is being copied either
	// way, and what it is itself.
	ForwardCost = sendBuffer + 2*copyBuffer + 128<<10
)

// What is tested by itself.
var (
	AnswerDHCP  = answerDHCP
	Admitted    = admitted
	Forbidden   = forbidden
	DialOutside = dialOutside
	KeepOutside = keepOutside
)

// Held is how many bytes of the guest's frames the stack holds.
func (n *Network) Held() int64 { return n.wire.held.Load() }

// GiveUpAfter has a guest take an answer of the world's sooner than it must.
func (c *NAT) GiveUpAfter(patience time.Duration) { c.take = patience }

// Half is a connection whose directions end one by one.
type Half = half

// Join joins two connections on a network that has nothing else, until ctx ends.
func Join(ctx context.Context, inside Half, outside net.Conn, patience time.Duration) {
	n := &Network{}
	n.crew.context = ctx
	n.join(inside, outside, patience)
}
