//go:build linux || darwin || freebsd

package rootfolder_test

import (
	"os"
	"testing"

	"github.com/hexworker/metaservice/adapters/rootfolder"
	"github.com/hexworker/metaservice/ports"
)

// A storage tells of the disk that it is on, and of none once that is gone.
func TestSpace(t *testing.T) {
	folder := t.TempDir() + "/below"
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := rootfolder.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	storage, ok := f.File("x/y").(ports.StorageWithSpace)
	if !ok {
		t.Fatal("its storages can't tell")
	}
	free, disk, err := storage.Space()
	if err != nil || free <= 0 || disk < free {
		t.Errorf("%d of %d bytes are free, %v", free, disk, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := storage.Space(); err == nil {
		t.Error("it tells of a disk that it is not on")
	}
}
