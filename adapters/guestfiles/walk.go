package guestfiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// batch is how many entries of a folder are read at a time.
	batch = 512
	// openDepth is how deep folders are kept open while what is below them is walked. Below that,
	// only the names of a folder's folders are kept, so that a deep tree doesn't use up descriptors.
	openDepth = 64
)

// Walk is ports.Files'. Its memory doesn't grow with the number of files.
func (f *Files) Walk(ctx context.Context, path string) (iter.Seq2[string, error], error) {
	info, err := os.Stat(f.full(path))
	if err != nil {
		return nil, err
	}
	path = filepath.Clean(path)
	switch {
	case info.Mode().IsRegular():
		return func(yield func(string, error) bool) { yield(path, nil) }, nil
	case !info.IsDir():
		return nil, fmt.Errorf("%s is %s, neither a folder nor a file: %w", domain.Quote(path), kind(info.Mode()), ports.ErrNotRegular)
	}
	root, err := os.Open(f.full(path))
	if err != nil {
		return nil, err
	}
	// The sequence opens it again: nobody needs to run it, so it can't own a descriptor.
	if err := root.Close(); err != nil {
		return nil, err
	}
	return func(yield func(string, error) bool) {
		w := &walker{ctx: ctx, files: f, yield: yield}
		root, err := os.Open(f.full(path))
		if err == nil {
			err = w.folder(root, path, 0)
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield("", err)
		}
	}, nil
}

// errStopped is a consumer that wants no more.
var errStopped = errors.New("stopped")

type walker struct {
	ctx   context.Context
	files *Files
	yield func(string, error) bool
}

// folder walks an open folder, and closes it.
func (w *walker) folder(dir *os.File, path string, depth int) error {
	defer dir.Close()
	var later []string
	for {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		entries, err := dir.ReadDir(batch)
		for _, entry := range entries {
			name := filepath.Join(path, entry.Name())
			switch {
			case entry.Type().IsRegular():
				if !w.yield(name, nil) {
					return errStopped
				}
			case !entry.IsDir():
			case depth >= openDepth:
				later = append(later, entry.Name())
			default:
				if err := w.below(name, depth+1); err != nil {
					return err
				}
			}
		}
		if err == io.EOF || vanished(err) {
			break
		}
		if denied(err) && depth > 0 { // some file systems say so only now
			if !w.passOver(err) {
				return errStopped
			}
			break
		}
		if err != nil {
			return err
		}
	}
	if err := dir.Close(); err != nil {
		return err
	}
	for _, name := range later {
		if err := w.below(filepath.Join(path, name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// below walks a folder below the root. It may have vanished, or become a link, which isn't followed.
func (w *walker) below(path string, depth int) error {
	dir, err := os.OpenFile(w.files.full(path), os.O_RDONLY|folderFlags, 0)
	if vanished(err) || replaced(err) {
		return nil
	}
	if denied(err) {
		if !w.passOver(err) {
			return errStopped
		}
		return nil
	}
	if err != nil {
		return err
	}
	return w.folder(dir, path, depth)
}

// passOver tells of a folder that may not be read: one of another user's must not hide all the rest.
func (w *walker) passOver(err error) bool {
	return w.yield("", fmt.Errorf("%w: %w", ports.ErrPassedOver, err))
}

func denied(err error) bool { return errors.Is(err, fs.ErrPermission) }

func vanished(err error) bool { return errors.Is(err, fs.ErrNotExist) }
