package tempfiles_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/tempfiles"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestStorageContract(t *testing.T) {
	contract.Storage(t, func(t *testing.T) (ports.Storage, func() int) {
		folder := t.TempDir()
		storage, err := tempfiles.New(folder)
		if err != nil {
			t.Fatal(err)
		}
		return storage, func() int { return count(t, folder) }
	})
}

// A host that is killed can't clean up: the file must have no name from the start.
func TestNothingIsLeftEvenWhileAnUploadIsOpen(t *testing.T) {
	folder := t.TempDir()
	storage, err := tempfiles.New(folder)
	if err != nil {
		t.Fatal(err)
	}
	upload, err := storage.Create(10)
	if err != nil {
		t.Fatal(err)
	}
	defer upload.Close()
	for range 3 { // from memory into a file
		if _, err := upload.Write(make([]byte, 30<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, folder); n != 0 {
		t.Errorf("%d files have a name while an upload is open", n)
	}
	file, err := upload.Commit()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if n := count(t, folder); n != 0 {
		t.Errorf("%d files have a name while an artifact is open", n)
	}
}

func TestAFolderThatCantBeUsedIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{filepath.Join(t.TempDir(), "missing"), file} {
		if _, err := tempfiles.New(folder); err == nil || !strings.Contains(err.Error(), folder) {
			t.Errorf("New(%q): %v, which doesn't name the folder", folder, err)
		}
	}
}

func count(t *testing.T, folder string) int {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
