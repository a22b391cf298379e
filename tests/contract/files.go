package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/ports"
)

// Files is the suite of ports.Files. open makes one that takes relative paths from base.
func Files(t *testing.T, open func(t *testing.T, base string) ports.Files) {
	for name, test := range map[string]func(*testing.T, filesCase){
		"open":               filesOpen,
		"open relative":      filesOpenRelative,
		"open nothing":       filesOpenMissing,
		"open no file":       filesOpenIrregular,
		"open denied":        filesOpenDenied,
		"size of a grown":    filesGrown,
		"walk":               filesWalk,
		"walk names":         filesWalkNames,
		"walk a file":        filesWalkFile,
		"walk nothing":       filesWalkMissing,
		"walk links":         filesWalkLinks,
		"walk what vanishes": filesWalkVanishing,
		"walk denied":        filesWalkDenied,
		"walk stopped":       filesWalkStopped,
		"walk given up":      filesWalkContext,
		"walk deep":          filesWalkDeep,
		"walk many":          filesWalkMany,
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			test(t, filesCase{base: base, files: open(t, base)})
		})
	}
}

type filesCase struct {
	base  string
	files ports.Files
}

// write makes files below the base, and the folders that they need.
func (c filesCase) write(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(c.base, name)
		noError(t, "folder", os.MkdirAll(filepath.Dir(path), 0o700))
		noError(t, "file", os.WriteFile(path, []byte("in "+name), 0o600))
	}
}

func (c filesCase) walk(t *testing.T, path string) []string {
	t.Helper()
	sequence, err := c.files.Walk(context.Background(), path)
	noError(t, "walk", err)
	found, err := collect(sequence)
	noError(t, "walk", err)
	return found
}

func collect(sequence iter.Seq2[string, error]) ([]string, error) {
	var found []string
	for name, err := range sequence {
		if err != nil {
			return found, err
		}
		found = append(found, name)
	}
	slices.Sort(found)
	return found, nil
}

func (c filesCase) content(t *testing.T, path string) string {
	t.Helper()
	file, err := c.files.Open(path)
	noError(t, "open", err)
	defer file.Close()
	data, err := io.ReadAll(file)
	noError(t, "read", err)
	if file.Size() != int64(len(data)) {
		t.Errorf("%s has the size %d, but %d bytes in it", path, file.Size(), len(data))
	}
	return string(data)
}

func filesOpen(t *testing.T, c filesCase) {
	c.write(t, "a b", "sub/ü", "empty")
	noError(t, "truncate", os.Truncate(filepath.Join(c.base, "empty"), 0))
	same(t, "content", "in a b", c.content(t, filepath.Join(c.base, "a b")))
	same(t, "content", "in sub/ü", c.content(t, filepath.Join(c.base, "sub", "ü")))
	same(t, "content", "", c.content(t, filepath.Join(c.base, "empty")))
	if err := os.Symlink("a b", filepath.Join(c.base, "link")); err == nil {
		same(t, "content by a link", "in a b", c.content(t, filepath.Join(c.base, "link")))
	}
}

func filesOpenRelative(t *testing.T, c filesCase) {
	c.write(t, "sub/file")
	for _, path := range []string{"sub/file", "./sub/file", "sub/../sub/file"} {
		same(t, "content of "+path, "in sub/file", c.content(t, path))
	}
}

func (c filesCase) openFails(t *testing.T, path string, want error) {
	t.Helper()
	start := time.Now()
	file, err := c.files.Open(path)
	if err == nil {
		file.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("opening %s returned %v, want %v", path, err, want)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("opening %s took %s", path, took)
	}
}

func filesOpenMissing(t *testing.T, c filesCase) {
	c.openFails(t, "nothing", fs.ErrNotExist)
	c.openFails(t, filepath.Join(c.base, "no", "such", "folder"), fs.ErrNotExist)
	if os.Symlink("nothing", filepath.Join(c.base, "dangling")) == nil {
		c.openFails(t, "dangling", fs.ErrNotExist)
	}
}

// A folder, a FIFO, a socket or a device must neither be sent nor waited for.
func filesOpenIrregular(t *testing.T, c filesCase) {
	c.write(t, "sub/file")
	c.openFails(t, "sub", ports.ErrNotRegular)
	c.openFails(t, c.base, ports.ErrNotRegular)
	if makeFIFO(filepath.Join(c.base, "fifo")) == nil {
		c.openFails(t, "fifo", ports.ErrNotRegular)
		noError(t, "link", os.Symlink("fifo", filepath.Join(c.base, "to the fifo")))
		c.openFails(t, "to the fifo", ports.ErrNotRegular)
	}
	if _, err := os.Stat("/dev/zero"); err == nil {
		c.openFails(t, "/dev/zero", ports.ErrNotRegular)
		c.openFails(t, "/dev/tty", ports.ErrNotRegular)
	}
}

// deny takes the rights from a path, and tells whether that holds: it doesn't for root.
func deny(t *testing.T, path string) bool {
	t.Helper()
	noError(t, "chmod", os.Chmod(path, 0))
	t.Cleanup(func() { os.Chmod(path, 0o700) })
	file, err := os.Open(path)
	if err == nil {
		file.Close()
	}
	return err != nil
}

func filesOpenDenied(t *testing.T, c filesCase) {
	c.write(t, "secret")
	if deny(t, filepath.Join(c.base, "secret")) {
		c.openFails(t, "secret", fs.ErrPermission)
	}
}

func filesGrown(t *testing.T, c filesCase) {
	c.write(t, "log")
	file, err := c.files.Open("log")
	noError(t, "open", err)
	defer file.Close()
	before := file.Size()
	noError(t, "write", os.WriteFile(filepath.Join(c.base, "log"), []byte(strings.Repeat("more", 1000)), 0o600))
	same(t, "the size", before, file.Size())
}

func filesWalk(t *testing.T, c filesCase) {
	c.write(t, "root/a", "root/b/c", "root/b/d/e", "root/.hidden", "other/x")
	noError(t, "folder", os.MkdirAll(filepath.Join(c.base, "root", "empty", "too"), 0o700))
	if makeFIFO(filepath.Join(c.base, "root", "fifo")) != nil && runtime.GOOS == "linux" {
		t.Error("no FIFO could be made")
	}
	root := filepath.Join(c.base, "root")
	want := []string{".hidden", "a", filepath.Join("b", "c"), filepath.Join("b", "d", "e")}
	var full []string
	for _, name := range want {
		full = append(full, filepath.Join(root, name))
	}
	same(t, "names", full, c.walk(t, root))
	if found := c.walk(t, filepath.Join(root, "empty")); len(found) != 0 {
		t.Errorf("a folder without files has %q", found)
	}
}

// Names begin with the path as it was asked for, cleaned, so that the host finds them in its list.
func filesWalkNames(t *testing.T, c filesCase) {
	c.write(t, "sub/a", "sub/b/c")
	join := filepath.Join
	for path, want := range map[string][]string{
		"sub":                        {join("sub", "a"), join("sub", "b", "c")},
		"./sub/":                     {join("sub", "a"), join("sub", "b", "c")},
		".":                          {join("sub", "a"), join("sub", "b", "c")},
		"sub/../sub//b":              {join("sub", "b", "c")},
		c.base + "/sub/b/":           {join(c.base, "sub", "b", "c")},
		c.base + "//sub/./b/../b/./": {join(c.base, "sub", "b", "c")},
	} {
		same(t, "names of "+path, want, c.walk(t, path))
	}
}

func filesWalkFile(t *testing.T, c filesCase) {
	c.write(t, "sub/file")
	same(t, "a file is itself", []string{filepath.Join("sub", "file")}, c.walk(t, "./sub//file"))
}

func (c filesCase) walkFails(t *testing.T, path string, want error) {
	t.Helper()
	if _, err := c.files.Walk(context.Background(), path); !errors.Is(err, want) {
		t.Errorf("walking %s returned %v, want %v before any name", path, err, want)
	}
}

func filesWalkMissing(t *testing.T, c filesCase) {
	c.walkFails(t, "nothing", fs.ErrNotExist)
	c.walkFails(t, filepath.Join(c.base, "nothing"), fs.ErrNotExist)
	if makeFIFO(filepath.Join(c.base, "fifo")) == nil {
		c.walkFails(t, "fifo", ports.ErrNotRegular)
	}
	noError(t, "folder", os.Mkdir(filepath.Join(c.base, "secret"), 0o700))
	if deny(t, filepath.Join(c.base, "secret")) {
		c.walkFails(t, "secret", fs.ErrPermission)
	}
}

// A link at the root is followed, one below it neither followed nor told: a loop would never end.
func filesWalkLinks(t *testing.T, c filesCase) {
	c.write(t, "real/file", "elsewhere/secret")
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(c.base, name)); err != nil && runtime.GOOS != "windows" {
			t.Fatal(err)
		}
	}
	link("real", "root")
	link(".", "real/loop")
	link("../elsewhere", "real/out")
	link("file", "real/to the file")
	link("nothing", "real/dangling")
	if runtime.GOOS != "windows" {
		same(t, "names", []string{filepath.Join("root", "file")}, c.walk(t, "root"))
	}
	same(t, "names", []string{filepath.Join("real", "file")}, c.walk(t, "real"))
}

// Whatever the task does meanwhile, what is gone is not missed.
func filesWalkVanishing(t *testing.T, c filesCase) {
	for i := range 30 {
		c.write(t, fmt.Sprintf("root/%02d/file", i))
	}
	sequence, err := c.files.Walk(context.Background(), "root")
	noError(t, "walk", err)
	seen := 0
	for _, err := range sequence {
		noError(t, "walk", err)
		if seen++; seen == 1 {
			folders, err := filepath.Glob(filepath.Join(c.base, "root", "*"))
			noError(t, "glob", err)
			for i, folder := range folders {
				noError(t, "remove", os.RemoveAll(folder))
				if i%2 == 0 { // a file in a folder's place
					noError(t, "write", os.WriteFile(folder, nil, 0o600))
				}
			}
		}
	}
	if seen == 0 {
		t.Error("nothing was found at all")
	}
}

func filesWalkDenied(t *testing.T, c filesCase) {
	c.write(t, "root/a", "root/m/secret/file", "root/m/z", "root/z")
	if !deny(t, filepath.Join(c.base, "root", "m", "secret")) {
		return
	}
	sequence, err := c.files.Walk(context.Background(), "root")
	noError(t, "walk", err)
	var found []string
	var passed []error
	for name, err := range sequence {
		if err == nil {
			found = append(found, name)
		} else {
			passed = append(passed, err)
		}
	}
	slices.Sort(found)
	join := filepath.Join
	same(t, "names beside a folder that may not be read", []string{join("root", "a"), join("root", "m", "z"), join("root", "z")}, found)
	if len(passed) != 1 || !errors.Is(passed[0], ports.ErrPassedOver) || !errors.Is(passed[0], fs.ErrPermission) ||
		!strings.Contains(passed[0].Error(), join("root", "m", "secret")) {
		t.Errorf("the walk told %v, want once that the folder is passed over", passed)
	}
}

func filesWalkStopped(t *testing.T, c filesCase) {
	c.write(t, "a/1", "a/2", "b/c/1", "b/c/2")
	sequence, err := c.files.Walk(context.Background(), ".")
	noError(t, "walk", err)
	for range 2 { // it may be run again, too
		n := 0
		for range sequence {
			if n++; n == 2 {
				break
			}
		}
	}
}

func filesWalkContext(t *testing.T, c filesCase) {
	for i := range 20 {
		c.write(t, fmt.Sprintf("root/%02d/file", i))
	}
	gone := errors.New("the guest ends")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	sequence, err := c.files.Walk(ctx, "root")
	noError(t, "walk", err)
	n := 0
	for _, err = range sequence {
		if err != nil {
			break
		}
		n++
		cancel(gone)
	}
	if !errors.Is(err, gone) || n > 2 {
		t.Errorf("a walk that was given up went on for %d names and ended with %v", n, err)
	}
}

func filesWalkDeep(t *testing.T, c filesCase) {
	const depth = 400
	deep := filepath.Join(c.base, "root")
	noError(t, "folder", os.MkdirAll(filepath.Join(deep, strings.Repeat("d/", depth)), 0o700))
	for range depth {
		deep = filepath.Join(deep, "d")
		noError(t, "file", os.WriteFile(filepath.Join(deep, "f"), nil, 0o600))
	}
	if found := c.walk(t, "root"); len(found) != depth {
		t.Errorf("a tree %d deep has %d files, want as many", depth, len(found))
	}
}

func filesWalkMany(t *testing.T, c filesCase) {
	const folders, each = 5, 3000
	for i := range folders {
		folder := filepath.Join(c.base, "root", fmt.Sprint(i))
		noError(t, "folder", os.MkdirAll(folder, 0o700))
		for j := range each {
			noError(t, "file", os.WriteFile(filepath.Join(folder, fmt.Sprint(j)), nil, 0o600))
		}
	}
	if found := slices.Compact(c.walk(t, "root")); len(found) != folders*each {
		t.Errorf("%d names, want %d", len(found), folders*each)
	}
}
