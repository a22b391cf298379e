//go:build !linux && !darwin && !freebsd

package tempfiles

import "errors"

// Space implements ports.StorageWithSpace: here it can't be told.
func (*Storage) Space() (free, disk int64, err error) { return 0, 0, errors.ErrUnsupported }
