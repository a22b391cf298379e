package host

import "math/bits"

// seldom counts what a guest can make happen any number of times, so that the log tells it the first few
// times and then ever more seldom, with the count: a guest must not fill its host's log.
type seldom uint64

// oftenEnough is up to which time everything is told; then it is each power of two.
const oftenEnough = 4

// again counts one more, and tells whether it is to be logged.
func (s *seldom) again() bool {
	*s++
	return *s <= oftenEnough || bits.OnesCount64(uint64(*s)) == 1
}
