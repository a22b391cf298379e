//go:build linux || darwin || freebsd

package rootfolder

import "syscall"

// Space implements ports.StorageWithSpace.
func (s storage) Space() (free, disk int64, err error) {
	root, err := s.folder.root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer root.Close()
	var stat syscall.Statfs_t
	if err := syscall.Fstatfs(int(root.Fd()), &stat); err != nil {
		return 0, 0, err
	}
	block := int64(stat.Bsize)
	return int64(stat.Bavail) * block, int64(stat.Blocks) * block, nil
}
