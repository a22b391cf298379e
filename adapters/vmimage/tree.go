package vmimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"

	"github.com/hexworker/metaservice/domain"
)

// tree is what goes into an initramfs, by path without a leading slash. All of it is root's, and has no
// times: the same tree is always the same archive.
type tree map[string]node

// node is a file, a folder, a symbolic link or a FIFO.
type node struct {
	mode cpio.FileMode
	link string
	size int64
	open func() (io.ReadCloser, error) // of a file
}

// maxLinks is how many symbolic links on a path are followed, as Linux has it.
const maxLinks = 40

// maxFile is what a length in the archive can say.
const maxFile = 1<<32 - 1

// resolve finds where a path leads: an image's /lib may be a link to its /usr/lib. The path's last
// element isn't followed.
func (t tree) resolve(name string) (string, error) {
	links := 0
	done, rest := "", path.Clean(name)
	for {
		first, after, more := strings.Cut(rest, "/")
		at := path.Join(done, first)
		if !more {
			return at, nil
		}
		n, there := t[at]
		if !there || n.mode&cpio.ModeType != cpio.TypeSymlink {
			done, rest = at, after
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: too many symbolic links", domain.Quote("/"+name))
		}
		target := n.link
		if !path.IsAbs(target) {
			target = "/" + path.Join(done, target)
		}
		done, rest = "", strings.TrimPrefix(path.Join(target, after), "/")
	}
}

// put lays a node where a path leads, with the folders on the way to it.
func (t tree) put(name string, n node) error {
	at, err := t.resolve(name)
	if err != nil {
		return err
	}
	for dir := path.Dir(at); dir != "."; dir = path.Dir(dir) {
		above, there := t[dir]
		if there && above.mode&cpio.ModeType != cpio.TypeDir {
			return fmt.Errorf("%s is no folder, %s can't be put into it", domain.Quote("/"+dir), domain.Quote("/"+name))
		}
		if !there {
			t[dir] = node{mode: cpio.TypeDir | 0o755}
		}
	}
	t[at] = n
	return nil
}

func (t tree) putFile(name string, mode cpio.FileMode, data []byte) error {
	return t.put(name, node{mode: cpio.TypeReg | mode, size: int64(len(data)), open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}})
}

func (t tree) putLink(name, target string) error {
	return t.put(name, node{mode: cpio.TypeSymlink | 0o777, link: target})
}

// putFolder makes a folder where there is none, with the mode that it is to have.
func (t tree) putFolder(name string, mode cpio.FileMode) error {
	at, err := t.resolve(name)
	if err != nil {
		return err
	}
	if n, there := t[at]; there && n.mode&cpio.ModeType != cpio.TypeReg {
		return nil // a folder, or a link to one
	}
	return t.put(name, node{mode: cpio.TypeDir | mode})
}

// putRoot takes a whole folder of the host in. Devices are left out: a guest's kernel makes its own.
func (t tree) putRoot(ctx context.Context, root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		n := node{mode: unixMode(info.Mode())}
		switch n.mode & cpio.ModeType {
		case cpio.TypeDir, cpio.TypeFifo:
		case cpio.TypeChar, cpio.TypeBlock:
			return nil
		case cpio.TypeSymlink:
			if n.link, err = root.Readlink(name); err != nil {
				return err
			}
			n.mode |= 0o777
		case cpio.TypeReg:
			if n.size = info.Size(); n.size > maxFile {
				return fmt.Errorf("%s has %d bytes, more than an initramfs can hold", domain.Quote("/"+name), n.size)
			}
			n.open = func() (io.ReadCloser, error) { return root.Open(name) }
		default:
			return fmt.Errorf("%s is a socket, which can't be in an image", domain.Quote("/"+name))
		}
		t[name] = n
		return nil
	})
}

// unixMode is a mode as an archive has it.
func unixMode(mode fs.FileMode) cpio.FileMode {
	bits := cpio.FileMode(mode.Perm())
	for _, bit := range []struct {
		from fs.FileMode
		to   cpio.FileMode
	}{
		{fs.ModeSetuid, cpio.ModeSetuid}, {fs.ModeSetgid, cpio.ModeSetgid}, {fs.ModeSticky, cpio.ModeSticky},
	} {
		if mode&bit.from != 0 {
			bits |= bit.to
		}
	}
	switch mode.Type() {
	case 0:
		return bits | cpio.TypeReg
	case fs.ModeDir:
		return bits | cpio.TypeDir
	case fs.ModeSymlink:
		return cpio.TypeSymlink
	case fs.ModeNamedPipe:
		return bits | cpio.TypeFifo
	case fs.ModeDevice:
		return bits | cpio.TypeBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		return bits | cpio.TypeChar
	}
	return bits | cpio.TypeSocket
}

// archive writes the tree as the kernel takes it: SVR4's cpio, each folder before what is in it.
func (t tree) archive(to io.Writer) error {
	w := cpio.NewWriter(to)
	for _, name := range slices.SortedFunc(maps.Keys(t), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	}) {
		if err := t[name].archive(w, name); err != nil {
			return fmt.Errorf("%s: %w", domain.Quote("/"+name), err)
		}
	}
	return w.Close()
}

func (n node) archive(w *cpio.Writer, name string) error {
	header := &cpio.Header{Name: name, Mode: n.mode, Links: 1, Size: n.size}
	switch n.mode & cpio.ModeType {
	case cpio.TypeDir:
		header.Links = 2
	case cpio.TypeSymlink:
		header.Size = int64(len(n.link))
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if n.link != "" {
		_, err := io.WriteString(w, n.link)
		return err
	}
	if n.open == nil {
		return nil
	}
	content, err := n.open()
	if err != nil {
		return err
	}
	defer content.Close()
	written, err := io.Copy(w, io.LimitReader(content, n.size+1))
	if err == nil && written != n.size {
		err = errors.New("it has another length than it had a moment ago")
	}
	return err
}
