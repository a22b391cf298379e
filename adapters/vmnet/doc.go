// Package vmnet is the network of one guest, whole in this process: the other end of a virtual machine's
// network card is a TCP/IP stack in user space, with nothing on it but the gateway. Nothing listens on
// the host for it, and it takes no root.
//
// The guest has one address, and may send from no other: what comes from another, or from another card's
// address, is dropped before it is looked at. Answers to calls of the metadata address carry the hop
// limit 1, so that they reach the guest and nothing that the guest would route them to.
//
// An isolated guest reaches the metadata address and nothing else. One with NAT reaches what the host
// reaches, through the host's sockets, but never the host itself: its loopback, its link-local networks,
// its own addresses and the services that tell it its keys in a cloud are refused, and on Linux whatever else the
// kernel would lead to the host. The host's resolver answers its questions, which is a way out for whoever has
// something to tell.
//
// ARP and DHCP are answered by the network. All that a guest can make it hold is bounded: frames, queues,
// connections, those that close slowly, and what is forwarded.
package vmnet
