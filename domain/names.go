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
	relative, err = f.relative(name)
	if err != nil {
		return "", err
	}
	_, file := f.seen["."]
	if _, twice := f.seen[relative]; twice {
		return "", f.refuse(name, "it was told twice")
	}
	if file || relative == "." && len(f.seen) > 0 {
		return "", f.refuse(name, "the path that was asked for can't be a file and hold one")
	}
	f.seen[relative] = struct{}{}
	return relative, nil
}

func (f *FolderNames) relative(name string) (string, error) {
	switch {
	case name == "":
		return "", f.refuse(name, "it is empty")
	case len(name) > MaxPath:
		return "", f.refuse(name, fmt.Sprintf("it has %d bytes, the most is %d", len(name), MaxPath))
	case strings.IndexByte(name, 0) >= 0:
		return "", f.refuse(name, "it holds a NUL byte")
	case name == f.folder, name == f.asked: // a walk that begins at a file may not clean its path
		return ".", nil
	}
	rest, inside := strings.CutPrefix(name, f.prefix)
	if !inside {
		return "", f.refuse(name, "it is not inside the folder")
	}
	for part := range strings.SplitSeq(rest, f.sep) {
		switch {
		case part == "", part == ".", part == "..":
			return "", f.refuse(name, "it is not a plain path: it has an empty part, '.' or '..'")
		case len(part) > MaxName:
			return "", f.refuse(name, fmt.Sprintf("a part of it has %d bytes, the most is %d", len(part), MaxName))
		case f.sep != "/" && strings.IndexByte(part, '/') >= 0:
			return "", f.refuse(name, "it mixes separators")
		}
	}
	return strings.ReplaceAll(rest, f.sep, "/"), nil
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

// maxReasons is how many refused names a listing describes.
const maxReasons = 8

// Refuse counts a name that was refused.
func (l *Listing) Refuse(err error) {
	l.Refused++
	if len(l.Reasons) < maxReasons {
		l.Reasons = append(l.Reasons, err)
	}
}

// IsFile tells that the path asked for is no folder but a regular file.
func (l *Listing) IsFile() bool { return len(l.Files) == 1 && l.Files[0].Relative == "." }
