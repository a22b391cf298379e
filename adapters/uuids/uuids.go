// Package uuids makes ids with github.com/google/uuid.
package uuids

import (
	"github.com/google/uuid"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Random makes version 4 UUIDs (RFC 9562): 122 bits from the system's own source of randomness, so
// that a guest can't guess the id of an action that it was not handed.
type Random struct{}

// NewID implements ports.IDs. It panics where the system has no randomness to give.
func (Random) NewID() domain.ActionID { return domain.ActionID(uuid.NewString()) }

var _ ports.IDs = Random{}
