package host

import "github.com/hexworker/metaservice/domain"

// seldom is a domain.Seldom.
type seldom uint64

func (s *seldom) again() bool { return (*domain.Seldom)(s).Again() }
