package rootfolder_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/rootfolder"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestStorageContract(t *testing.T) {
	contract.Storage(t, func(t *testing.T) (ports.Storage, func() int) {
		path := t.TempDir()
		return open(t, path).File("some/folder/file.txt"), func() int { return len(files(t, path)) }
	})
}

func TestFilesAppearWholeUnderTheirNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "as needed")
	folder := open(t, path)
	upload, err := folder.File("a/b/c.txt").Create(3)
	if err != nil {
		t.Fatal(err)
	}
	defer upload.Close()
	if _, err := upload.Write([]byte("new")); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(path, "a", "b", "c.txt")
	if _, err := os.Stat(target); err == nil {
		t.Error("the file is there before its commit")
	}
	if err := os.WriteFile(target, []byte("old content"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := upload.Commit()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got, err := os.ReadFile(target); err != nil || string(got) != "new" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if got := files(t, path); len(got) != 1 {
		t.Errorf("the folder holds %q", got)
	}
}

// A name came from a guest, and a link may be there from before: neither leads out.
func TestNoNameLeadsOut(t *testing.T) {
	parent := t.TempDir()
	outside := filepath.Join(parent, "outside")
	inside := filepath.Join(parent, "inside")
	for _, dir := range []string{outside, inside} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"absolute": outside, "relative": "../outside", "up": "..", "file": filepath.Join(outside, "made"),
	} {
		if err := os.Symlink(target, filepath.Join(inside, name)); err != nil {
			t.Fatal(err)
		}
	}
	folder := open(t, inside)
	for _, name := range []string{
		"", ".", "..", "../made", "/made", "a/../../made", "a//b", "./made", "nul\x00", "absolute/made", "relative/made",
		"up/outside/made", "up/made", "a/..", "made/",
	} {
		upload, err := folder.File(name).Create(-1)
		if err == nil {
			t.Errorf("the name %q was taken", name)
			upload.Close()
		}
	}
	// The name of a link is replaced; what the link leads to stays as it is.
	upload, err := folder.File("file").Create(-1)
	if err != nil {
		t.Fatal(err)
	}
	file, err := upload.Commit()
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if got := files(t, outside); len(got) != 0 {
		t.Errorf("files were written outside: %q", got)
	}
	if got := files(t, inside); strings.Join(got, " ") != "file" {
		t.Errorf("the folder holds %q", got)
	}
}

func open(t *testing.T, path string) *rootfolder.Folder {
	t.Helper()
	folder, err := rootfolder.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { folder.Close() })
	return folder
}

// files lists the regular files below a folder.
func files(t *testing.T, folder string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			relative, _ := filepath.Rel(folder, path)
			found = append(found, relative)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
