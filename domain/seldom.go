package domain

// Seldom counts what a guest can make happen any number of times, so that a log tells it the first few
// times and then ever more seldom, with the count: a guest must not fill its host's log.
type Seldom uint64

// oftenEnough is up to which time everything is told; then it is each power of two.
const oftenEnough = 4

// Again counts one more, and tells whether it is to be logged.
func (s *Seldom) Again() bool {
	*s++
	return *s <= oftenEnough || *s&(*s-1) == 0
}
