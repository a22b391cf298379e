package faults

import "time"

// Kind is a way in which a connection fails.
type Kind uint8

// The kinds of faults.
const (
	Latency   Kind = iota // each piece comes later
	Bandwidth             // few bytes a second
	Slicing               // single bytes and odd pieces
	Pause                 // nothing for less time than anybody waits
	Stall                 // nothing for longer than anybody waits, and then what was held back
	LoseUp                // half-open: the guest's bytes vanish, without an end
	LoseDown              // half-open: the host's bytes vanish, without an end
	Reset                 // both see a reset, and what was unread is gone
	CutUp                 // the host sees the end of what the guest sends; the guest hears the host still
	CutDown               // the guest sees the end of what the host sends; the host hears the guest still
	SlowClose             // all is passed on, the ends of both directions late
)

var kindNames = [...]string{
	Latency: "latency", Bandwidth: "bandwidth", Slicing: "slicing", Pause: "pause", Stall: "stall",
	LoseUp: "lose-up", LoseDown: "lose-down", Reset: "reset", CutUp: "cut-up", CutDown: "cut-down", SlowClose: "slow-close",
}

// String is the kind's name in a cell's.
func (k Kind) String() string { return kindNames[k] }

// Kinds are all of them.
func Kinds() []Kind {
	all := make([]Kind, len(kindNames))
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}

// Harmless tells whether every byte gets there in the end, in time and in order: then nobody may notice.
func (k Kind) Harmless() bool {
	switch k {
	case Latency, Bandwidth, Slicing, Pause, SlowClose:
		return true
	}
	return false
}

// Moment is when in the life of a request its connection begins to fail.
type Moment uint8

// The moments, in their order.
const (
	Before       Moment = iota // not a byte of the request has gone to the host
	AmidHeaders                // half of its headers have
	AmidBody                   // its headers have, and some of its body
	BeforeAnswer               // all of it has, and the host has answered; no byte of that has gone to the guest
	AmidAnswer                 // some of the answer has
	After                      // the answer's first piece has, which of a small one is all of it
)

var momentNames = [...]string{
	Before: "before", AmidHeaders: "amid-headers", AmidBody: "amid-body",
	BeforeAnswer: "before-answer", AmidAnswer: "amid-answer", After: "after",
}

// String is the moment's name in a cell's.
func (m Moment) String() string { return momentNames[m] }

// Moments are all of them.
func Moments() []Moment {
	all := make([]Moment, len(momentNames))
	for i := range all {
		all[i] = Moment(i)
	}
	return all
}

// Fault is what is to become of a request's connection.
type Fault struct {
	Request string // how the request begins: its method and as much of its target as it takes
	Kind    Kind
	Moment  Moment
	Body    int           // of a body, how many bytes go to the host before; AmidBody alone
	Time    time.Duration // of a Pause, a Stall, a SlowClose, and of the Latency of each piece
	Rate    int           // of Bandwidth, in bytes a second
}
