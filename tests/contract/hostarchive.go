package contract

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// folderFiles is a sequence of these files, in the order of their names.
func folderFiles(files map[string]*memFile) iter.Seq2[ports.FolderFile, error] {
	return func(yield func(ports.FolderFile, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if !yield(ports.FolderFile{Name: name, File: files[name]}, nil) {
				return
			}
		}
	}
}

// hostArchive: names and contents come exactly, whatever is in them.
func hostArchive(t *testing.T, c hostCase) {
	host := c.connect()
	long := strings.Repeat("0123456789abcdef", 100_000)
	many := make(map[string]*memFile)
	for i := range 5000 {
		many[fmt.Sprintf("a folder/%06d", i)] = newMemFile(strings.Repeat("x", i%700))
	}
	kernel, grown := newMemFile("as the kernel tells it"), newMemFile(long)
	kernel.size, grown.size = 0, 1000
	for id, files := range map[domain.ActionID]map[string]*memFile{
		"none": {}, "itself": {".": newMemFile("content")}, "many": many,
		"odd": {"empty": newMemFile(""), "long": newMemFile(long), "kernel": kernel,
			"ünï code\n": newMemFile("1"), "not UTF-8 \xff\xfe": newMemFile("2"), strings.Repeat("d/", 2000) + "deep": newMemFile("3"),
			strings.Repeat("long", 60): newMemFile("4"), strings.Repeat("\xff", 250): newMemFile("5"), " ": newMemFile("6"), `back\slash`: newMemFile("7")},
	} {
		var want []string
		for _, name := range slices.Sorted(maps.Keys(files)) {
			want = append(want, Archived(name, string(files[name].content), ""))
		}
		noError(t, "archive", host.SendArchive(c.ctx, id, folderFiles(files)))
		reply := c.reply(t, id)
		if !slices.Equal(reply.Archive, want) || reply.NotFound || reply.Broken != nil {
			t.Errorf("%s: %d files came as %d, %v", id, len(want), len(reply.Archive), reply.Broken)
		}
		for name, file := range files {
			if file.closed {
				t.Errorf("%s: SendArchive closed %q, which is its caller's to close", id, name)
			}
		}
	}
	noError(t, "a file that grew", host.SendArchive(c.ctx, "grown", folderFiles(map[string]*memFile{"log": grown})))
	if reply := c.reply(t, "grown"); !slices.Equal(reply.Archive, []string{"log=" + long[:1000]}) {
		t.Errorf("a file that grew after it was opened came as %d bytes, want the 1000 that it had", len(reply.Archive[0])-len("log="))
	}
}

// hostArchiveFailures: what can't be sent from its start is told, and the rest comes.
func hostArchiveFailures(t *testing.T, c hostCase) {
	unreadable, denied, half := newMemFile(""), newMemFile(""), newMemFile("half")
	unreadable.size, unreadable.fails = 10, errors.New("the disk is broken")
	denied.size, denied.fails = 0, fs.ErrPermission
	half.size, half.fails = 100, errors.New("the disk is broken")
	shorter, endless := newMemFile("shorter"), newMemFile(strings.Repeat("x", 1<<20))
	shorter.size, endless.size = 100, 0
	large := newMemFile("which isn't read")
	large.size = 64 << 20
	files := func(yield func(ports.FolderFile, error) bool) {
		for _, file := range []ports.FolderFile{
			{Name: "gone", Failure: domain.FailureNotFound}, {Name: "denied \xff", Failure: domain.FailureDenied},
			{Name: "unreadable", File: unreadable}, {Name: "denied late", File: denied}, {Name: "half", File: half},
			{Name: "shorter", File: shorter}, {Name: "endless", File: endless}, {Name: "large", File: large}, {Name: "last", File: newMemFile("content")},
		} {
			if !yield(file, nil) {
				return
			}
		}
	}
	noError(t, "archive", c.connect().SendArchive(c.ctx, "failures", files))
	reply := c.reply(t, "failures")
	same(t, "the archive", []string{"gone!not-found", "denied \xff!permission-denied", "unreadable!io-error", "denied late!permission-denied",
		"half!io-error", "shorter=shorter", "endless!apart", "large!apart", "last=content"}, reply.Archive)
	same(t, "broken", nil, reply.Broken)
}

// hostArchiveBreaks: what goes wrong amid all leaves no end that the host could take for one.
func hostArchiveBreaks(t *testing.T, c hostCase) {
	broken := errors.New("the disk is broken")
	shrunk, fails := newMemFile(strings.Repeat("x", 1<<20)), newMemFile(strings.Repeat("x", 1<<20))
	shrunk.size = 2 << 20
	fails.size, fails.fails = 2<<20, broken
	for id, last := range map[domain.ActionID]*memFile{"a walk that fails": nil, "a file that shrank": shrunk, "a file that fails": fails} {
		err := c.connect().SendArchive(c.ctx, id, func(yield func(ports.FolderFile, error) bool) {
			switch {
			case !yield(ports.FolderFile{Name: "first", File: newMemFile("content")}, nil):
			case last == nil:
				yield(ports.FolderFile{}, broken)
			case yield(ports.FolderFile{Name: "last", File: last}, nil):
				t.Errorf("%s: the archive goes on", id)
			}
		})
		if err == nil || last != shrunk && !errors.Is(err, broken) {
			t.Errorf("%s: SendArchive returned %v", id, err)
		}
		if reply := c.reply(t, id); reply.Broken == nil {
			t.Errorf("%s: the host took %d files for the whole", id, len(reply.Archive))
		}
	}
}
