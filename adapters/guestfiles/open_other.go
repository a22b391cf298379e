//go:build !unix

package guestfiles

// There are no such flags: what isn't a regular file was told before it was opened.
const (
	openFlags   = 0
	folderFlags = 0
)

func replaced(error) bool { return false }
