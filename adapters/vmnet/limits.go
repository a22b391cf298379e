package vmnet

import "github.com/hexworker/metaservice/domain"

// LimitRows are the rows of this package's limits.
func LimitRows() []domain.LimitRow {
	const (
		area  = "a virtual machine's network"
		fixed = "fixed: it holds for each guest by itself"
		nat   = "vmnet.NAT"
	)
	return []domain.LimitRow{
		{Area: area, Name: "metadata connections", Default: domain.LimitCount(Connections), Of: "at once; the server's own limits come first", AtLimit: "one more is reset", Change: fixed},
		{Area: area, Name: "backlog", Default: domain.LimitCount(backlog), Of: "connections that nobody has accepted yet", AtLimit: "the guest tries again", Change: fixed},
		{Area: area, Name: "closing", Default: domain.LimitCount(maxClosing), Of: "connections that the host is done with, and the guest is not", AtLimit: "the oldest is reset", Change: fixed},
		{Area: area, Name: "received", Default: domain.LimitBytes(receiveBuffer), Of: "what one connection brought and nobody has read", AtLimit: "TCP holds the guest back", Change: fixed},
		{Area: area, Name: "sent", Default: domain.LimitBytes(sendBuffer), Of: "what one connection sent and the guest hasn't acknowledged", AtLimit: "writes wait", Change: fixed},
		{Area: area, Name: "frames", Default: domain.LimitBytes(maxOutgoing), Of: "what waits for a guest to take it off its card", AtLimit: "packets are lost, as on any network", Change: fixed},
		{Area: area, Name: "held frames", Default: domain.LimitBytes(maxHeld), Of: "what the guest sent and the stack has not done with", AtLimit: "packets are lost, as on any network", Change: fixed},
		{Area: area, Name: "questions", Default: domain.LimitCount(Questions), Of: "DNS questions at once, of " + domain.LimitBytes(maxDNS) + " each, with nat", AtLimit: "one more is lost, and asked again", Change: fixed},
		{Area: area, Name: "question streams", Default: domain.LimitCount(dnsStreams), Of: "DNS connections at once, with nat", AtLimit: "one more is reset", Change: fixed},
		{Area: area, Name: "forwards", Default: domain.LimitCount(DefaultForwards), Of: "TCP connections out at once, with nat", AtLimit: "one more is reset", Change: nat + ".Forwards"},
		{Area: area, Name: "dialing", Default: domain.LimitCount(dialing), Of: "TCP connections out that aren't open yet: " + domain.LimitTime(dialPatience) + " for the world to answer, " + domain.LimitTime(takePatience) + " for the guest to take it, with nat", AtLimit: "one more waits for the guest's next try", Change: fixed},
		{Area: area, Name: "flows", Default: domain.LimitCount(DefaultFlows), Of: "UDP flows out at once, with nat", AtLimit: "the packets of one more are lost", Change: nat + ".Flows"},
		{Area: area, Name: "forward idle", Default: domain.LimitTime(DefaultIdle), Of: "a TCP connection out without a byte", AtLimit: "it ends", Change: nat + ".Idle"},
		{Area: area, Name: "flow idle", Default: domain.LimitTime(DefaultFlowIdle), Of: "a UDP flow out without a packet", AtLimit: "it ends", Change: nat + ".FlowIdle"},
	}
}
