package domain

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// MaxName is the longest name of one file or folder, in bytes: NAME_MAX of Linux.
const MaxName = 255

// ErrRefusedName is a name in a folder's list that can't be kept.
var ErrRefusedName = errors.New("refused name")

// FolderNames sorts the names that a guest tells of a folder: those that are inside it, exactly as
// told, and those that can't be kept. A guest may lie: what it calls a name must never become a path
// that leads out of the folder, at either end.
type FolderNames struct {
	asked  string // as it was asked for
	folder string // the same, cleaned
	prefix string // how the name of each file in it begins
	sep    string
	seen   map[string]struct{} // relative names
}

// NewFolderNames takes the folder's path as it was asked for. Its syntax decides which separator the
// names have: a drive letter or two backslashes at the start mean Windows.
func NewFolderNames(folder string) *FolderNames {
	f := &FolderNames{asked: folder, sep: "/", seen: make(map[string]struct{})}
	if isWindowsPath(folder) {
		f.sep = `\`
		f.folder = cleanWindows(folder)
	} else {
		f.folder = path.Clean(folder)
	}
	switch {
	case f.folder == ".": // the task's own folder: names come as they are, without "./"
	case strings.HasSuffix(f.folder, f.sep), isDrive(f.folder): // "C:" is a drive's current folder: "C:name"
		f.prefix = f.folder
	default:
		f.prefix = f.folder + f.sep
	}
	return f
}

func isWindowsPath(p string) bool {
	if strings.HasPrefix(p, `\\`) {
		return true
	}
	if len(p) < 2 || p[1] != ':' {
		return false
	}
	letter := p[0] | 0x20
	return letter >= 'a' && letter <= 'z' && (len(p) == 2 || p[2] == '\\' || p[2] == '/')
}

func isDrive(p string) bool { return len(p) == 2 && isWindowsPath(p) && p[1] == ':' }

// cleanWindows is path.Clean for Windows. The drive, or the server and its share, stay as they are.
func cleanWindows(folder string) string {
	slashed := strings.ReplaceAll(folder, `\`, "/")
	volume, rest := slashed[:2], slashed[2:]
	if volume == "//" {
		server, afterServer, _ := strings.Cut(rest, "/")
		share, _, _ := strings.Cut(afterServer, "/")
		volume = strings.TrimSuffix("//"+server+"/"+share, "/")
		rest = slashed[len(volume):]
	}
	if rest != "" {
		rest = path.Clean(rest)
	}
	return strings.ReplaceAll(volume+rest, "/", `\`)
}

// Take checks one name as the guest told it, and gives it relative to the folder with '/' between its
// parts. The list of a regular file holds that file alone; its relative name is ".".
func (f *FolderNames) Take(name string) (relative string, err error) {
	if relative, err = f.relative(name); err != nil {
		return "", err
	}
	if err := f.keep(name, relative); err != nil {
		return "", err
	}
	return relative, nil
}

// TakeRelative is Take for a name that is told relative to the folder, with '/' between its parts
// whatever the folder's syntax; that of a regular file is ".". After an error nothing is kept.
func (f *FolderNames) TakeRelative(name string) (ListedFile, error) {
	if err := f.checkText(name); err != nil {
		return ListedFile{}, err
	}
	path := f.asked
	if name != "." {
		if err := f.checkParts(name, name, "/"); err != nil {
			return ListedFile{}, err
		}
		path = f.prefix + strings.ReplaceAll(name, "/", f.sep)
	}
	if err := f.keep(name, name); err != nil {
		return ListedFile{}, err
	}
	return ListedFile{Path: path, Relative: name}, nil
}

// Has tells whether a name was taken. Relative is what Take gave.
func (f *FolderNames) Has(relative string) bool {
	_, ok := f.seen[relative]
	return ok
}

// keep notes a name that is taken.
func (f *FolderNames) keep(name, relative string) error {
	if f.Has(relative) {
		return f.refuse(name, "it was told twice")
	}
	if f.Has(".") || relative == "." && len(f.seen) > 0 {
		return f.refuse(name, "the path that was asked for can't be a file and hold one")
	}
	f.seen[relative] = struct{}{}
	return nil
}

func (f *FolderNames) relative(name string) (string, error) {
	if err := f.checkText(name); err != nil {
		return "", err
	}
	if name == f.folder || name == f.asked { // a walk that begins at a file may not clean its path
		return ".", nil
	}
	rest, inside := strings.CutPrefix(name, f.prefix)
	if !inside {
		return "", f.refuse(name, "it is not inside the folder")
	}
	if err := f.checkParts(name, rest, f.sep); err != nil {
		return "", err
	}
	return strings.ReplaceAll(rest, f.sep, "/"), nil
}

func (f *FolderNames) checkText(name string) error {
	switch {
	case name == "":
		return f.refuse(name, "it is empty")
	case len(name) > MaxPath:
		return f.refuse(name, fmt.Sprintf("it has %d bytes, the most is %d", len(name), MaxPath))
	case strings.IndexByte(name, 0) >= 0:
		return f.refuse(name, "it holds a NUL byte")
	}
	return nil
}

// checkParts checks what of a name is below the folder. No part may hold a separator of the folder's, or
// one of ours.
func (f *FolderNames) checkParts(name, rest, sep string) error {
	for part := range strings.SplitSeq(rest, sep) {
		switch {
		case part == "", part == ".", part == "..":
			return f.refuse(name, "it is not a plain path: it has an empty part, '.' or '..'")
		case len(part) > MaxName:
			return f.refuse(name, fmt.Sprintf("a part of it has %d bytes, the most is %d", len(part), MaxName))
		case sep != "/" && strings.IndexByte(part, '/') >= 0, sep != f.sep && strings.Contains(part, f.sep):
			return f.refuse(name, "it mixes separators")
		}
	}
	return nil
}

func (f *FolderNames) refuse(name, why string) error {
	return fmt.Errorf("%w %s: %s", ErrRefusedName, Quote(name), why)
}

// Listing is a folder's list: the files in the order in which the guest told them, and the account of
// the names that were refused.
type Listing struct {
	Files   []ListedFile
	Refused int     // names that can't be kept
	Reasons []error // why, for the first few of them
}

// ListedFile is one regular file below a folder.
type ListedFile struct {
	Path     string // exactly as the guest told it, to ask for it
	Relative string // to the folder, with '/'; "." where the path asked for is the file itself
}

// ArchiveEntry is one entry of a folder's archive, as the guest tells it.
type ArchiveEntry struct {
	Name    string      // relative to the folder, or "." where the path asked for is a file
	Size    int64       // of the content, which follows
	Failure FileFailure // why there is no content; empty where there is
	Folder  bool        // a folder: it says nothing of its own
	Unfit   string      // what it is where it is neither: an archive of a folder has none of it
}

// maxReasons is how many refused names a listing describes.
const maxReasons = 8

// Refuse counts a name that was refused.
func (l *Listing) Refuse(err error) {
	l.Refused++
	if len(l.Reasons) < maxReasons {
		l.Reasons = append(l.Reasons, err)
	}
}

// Account takes the account of refused names of another list of the same folder where that has more of them:
// they are the same names, as far as both were told them.
func (l *Listing) Account(other Listing) {
	if other.Refused > l.Refused {
		l.Refused, l.Reasons = other.Refused, other.Reasons
	}
}

// IsFile tells that the path asked for is no folder but a regular file.
func (l *Listing) IsFile() bool { return len(l.Files) == 1 && l.Files[0].Relative == "." }
