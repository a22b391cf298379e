//go:build linux || darwin || freebsd

package tempfiles

import "syscall"

// Space implements ports.StorageWithSpace.
func (s *Storage) Space() (free, disk int64, err error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(s.folder, &stat); err != nil {
		return 0, 0, err
	}
	block := int64(stat.Bsize)
	return int64(stat.Bavail) * block, int64(stat.Blocks) * block, nil
}
