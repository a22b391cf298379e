//go:build !linux && !darwin && !freebsd

package rootfolder

import "errors"

// Space implements ports.StorageWithSpace: here it can't be told.
func (storage) Space() (free, disk int64, err error) { return 0, 0, errors.ErrUnsupported }
