package metaservicetest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// pollPause is between a poll that brought nothing, or failed, and the next: a handler that holds none
// must not keep a core busy.
const pollPause = 10 * time.Millisecond

// ServeActions begins to answer what the host asks for, until the guest ends, and returns at once. Files
// and folders are those of files; a path's leading slash is left out, so that /tmp/x is tmp/x there. onKill
// is called when the host wants the task to end, and the host is answered when it returns; nil does
// nothing. Shells are those of ServeShells. Both are used by several goroutines at a time.
func (g *Guest) ServeActions(files fs.FS, onKill func()) {
	end, err := g.begin()
	if err != nil {
		return // it is over
	}
	go func() { // ends with the guest; Stop waits for it
		defer end()
		g.mu.Lock()
		g.serves = true
		again := g.bySelf
		g.mu.Unlock()
		if again { // without domain.FeatureTar, that is
			_ = g.greetBySelf() // the polls tell what is wrong with the host
		}
		for g.life.Err() == nil {
			start, proof := time.Now(), g.proofToCome()
			action, err := g.Poll()
			if err == nil && action.Kind() != domain.KindNone {
				g.act(action, files, onKill)
				continue
			}
			if time.Since(start) < pollPause {
				g.rest(proof)
			}
		}
	}()
}

// proofToCome is closed once requests show a token; nil where they do already. A poll without one is
// refused, or ended, when the script says hello meanwhile: the next is due as soon as it can show it.
func (g *Guest) proofToCome() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token.IsZero() {
		return g.hasToken
	}
	return nil
}

func (g *Guest) rest(proof <-chan struct{}) {
	pause := time.NewTimer(pollPause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-proof:
	case <-g.life.Done():
	}
}

// act answers an action on a goroutine of its own. That an answer isn't taken is the host's business: it
// asks again, or it has given up.
func (g *Guest) act(action domain.Action, files fs.FS, onKill func()) {
	end, err := g.begin()
	if err != nil {
		return
	}
	go func() { // ends with its request
		defer end()
		switch action.Kind() {
		case domain.KindGetArtifact:
			_ = g.sendFile(action, files)
		case domain.KindListFolder:
			_ = g.sendFolder(action, files)
		case domain.KindGetFolder:
			_ = g.sendArchive(action, files)
		case domain.KindExecShell:
			_ = g.playShell(action)
		case domain.KindKillProcess:
			if onKill != nil {
				onKill()
			}
			_ = g.Reply(action.ID(), nil, nil)
		}
	}()
}

// inFS is where the guest's path is in an fs.FS.
func inFS(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

func open(files fs.FS, name string) (fs.File, fs.FileInfo, error) {
	if files == nil {
		return nil, nil, fs.ErrNotExist
	}
	file, err := files.Open(orRoot(inFS(name)))
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

func orRoot(name string) string {
	if name == "" {
		return "."
	}
	return name
}

func (g *Guest) sendFile(action domain.Action, files fs.FS) error {
	file, info, err := open(files, action.Path())
	if err != nil {
		return g.Reply(action.ID(), http.Header{wire.HeaderError: {wire.FileNotFound}}, nil)
	}
	defer file.Close()
	if !info.Mode().IsRegular() {
		return g.Reply(action.ID(), http.Header{wire.HeaderError: {wire.FileNotFound}}, nil)
	}
	return g.Reply(action.ID(), nil, struct{ io.Reader }{file})
}

func (g *Guest) sendFolder(action domain.Action, files fs.FS) error {
	var list bytes.Buffer
	file, info, err := open(files, action.Path())
	if err == nil {
		file.Close()
		err = wire.EncodeFiles(&list, func(yield func(string, error) bool) { walk(files, action.Path(), info, yield) })
	}
	if err != nil {
		return g.Reply(action.ID(), jsonHeader, bytes.NewReader(wire.EncodeFilesNotFound()))
	}
	return g.Reply(action.ID(), jsonHeader, &list)
}

var tarHeader = http.Header{"Content-Type": {wire.TypeTar}}

func (g *Guest) sendArchive(action domain.Action, files fs.FS) error {
	file, info, err := open(files, action.Path())
	if err != nil {
		return g.Reply(action.ID(), http.Header{wire.HeaderError: {wire.FileNotFound}}, nil)
	}
	file.Close()
	folder := path.Clean(action.Path())
	var archive bytes.Buffer
	err = wire.EncodeArchive(&archive, func(yield func(ports.FolderFile, error) bool) {
		walk(files, folder, info, func(name string, err error) bool {
			if err != nil {
				return yield(ports.FolderFile{}, err)
			}
			relative := "."
			if name != folder {
				relative = strings.TrimPrefix(strings.TrimPrefix(inFS(name), inFS(folder)), "/")
			}
			return sendOne(files, name, relative, yield)
		})
	})
	if err != nil {
		return g.Reply(action.ID(), http.Header{wire.HeaderError: {wire.FileNotFound}}, nil)
	}
	return g.Reply(action.ID(), tarHeader, &archive)
}

func sendOne(files fs.FS, name, relative string, yield func(ports.FolderFile, error) bool) bool {
	file, info, err := open(files, name)
	if err != nil {
		return yield(ports.FolderFile{Name: relative, Failure: ports.FailureOf(err)}, nil)
	}
	defer file.Close()
	return yield(ports.FolderFile{Name: relative, File: sizedFile{file, info.Size()}}, nil)
}

// sizedFile is a ports.File.
type sizedFile struct {
	fs.File
	size int64
}

func (f sizedFile) Size() int64 { return f.size }

var errEnough = errors.New("enough")

// walk yields the regular files at or below a path, each beginning with it.
func walk(files fs.FS, asked string, info fs.FileInfo, yield func(string, error) bool) {
	if info.Mode().IsRegular() {
		yield(asked, nil)
		return
	}
	root := orRoot(inFS(asked))
	err := fs.WalkDir(files, root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		relative := name
		if root != "." {
			relative = strings.TrimPrefix(name, root+"/")
		}
		if !yield(path.Join(asked, relative), nil) {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		yield("", err)
	}
}
