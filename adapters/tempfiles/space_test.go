//go:build linux || darwin || freebsd

package tempfiles_test

import (
	"os"
	"testing"

	"github.com/hexworker/metaservice/adapters/tempfiles"
	"github.com/hexworker/metaservice/ports"
)

// A storage tells of the disk that it is on, and of none once that is gone.
func TestSpace(t *testing.T) {
	folder := t.TempDir() + "/below"
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := tempfiles.New(folder)
	if err != nil {
		t.Fatal(err)
	}
	var storage ports.StorageWithSpace = s
	free, disk, err := storage.Space()
	if err != nil || free <= 0 || disk < free {
		t.Errorf("%d of %d bytes are free, %v", free, disk, err)
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if _, _, err := storage.Space(); err == nil {
		t.Error("it tells of a disk that it is not on")
	}
}
