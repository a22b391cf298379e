package rootfolder

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// full is a file on a server that says only at the close that there is no room.
type full struct{ file }

var errFull = errors.New("quota exceeded")

func (f full) Close() error { return errors.Join(errFull, f.file.Close()) }

// An error at the close that came after the rename would have replaced a good file by a short one.
func TestAnErrorAtTheCloseKeepsTheOldFile(t *testing.T) {
	path := t.TempDir()
	target := filepath.Join(path, "file")
	if err := os.WriteFile(target, []byte("good"), 0o600); err != nil {
		t.Fatal(err)
	}
	folder, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	created, err := folder.File("file").Create(-1)
	if err != nil {
		t.Fatal(err)
	}
	u := created.(*upload)
	u.file = full{u.file}
	if _, err := u.Write([]byte("sho")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(); !errors.Is(err, errFull) {
		t.Errorf("it was committed with %v", err)
	}
	if err := u.Close(); err != nil {
		t.Errorf("a second end: %v", err)
	}
	if got, err := os.ReadFile(target); err != nil || string(got) != "good" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}
