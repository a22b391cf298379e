package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hexworker/metaservice/adapters/rootfolder"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// artifact is a file or a folder to bring out of the guest.
type artifact struct {
	given  string // as on the command line
	path   string // in the guest
	target string // here
}

// parseArtifacts reads what --artifact says: GUEST[=HOST].
func parseArtifacts(given []string) ([]artifact, error) {
	parsed := make([]artifact, 0, len(given))
	for _, text := range given {
		a := artifact{given: text, path: text}
		into := "" // the folder that it goes into under its own name
		if i := strings.LastIndexByte(text, '='); i >= 0 {
			a.path, a.target = text[:i], text[i+1:]
			if a.target == "" {
				return nil, usagef("--artifact %q says no place after '=': it must be GUEST or GUEST=HOST", text)
			}
			if !os.IsPathSeparator(a.target[len(a.target)-1]) {
				parsed = append(parsed, a)
				continue
			}
			into = a.target
		}
		if a.path == "" {
			return nil, usagef("--artifact %q names nothing in the guest: it must be GUEST or GUEST=HOST", text)
		}
		name, ok := baseName(a.path)
		if !ok {
			return nil, usagef("--artifact %q: a place can't be named after it; say where it is to go: --artifact %s=HOST", text, a.path)
		}
		a.target = filepath.Join(into, name)
		parsed = append(parsed, a)
	}
	for _, a := range parsed {
		if _, err := domain.GetArtifact("check", a.path); err != nil {
			return nil, usagef("--artifact %s: %w", domain.Quote(a.given), err)
		}
	}
	return parsed, nil
}

// baseName is the last part of a path in the guest's syntax, where it can name a file here.
func baseName(guest string) (string, bool) {
	if strings.HasPrefix(guest, `\\`) || len(guest) >= 2 && guest[1] == ':' {
		guest = strings.ReplaceAll(guest[strings.IndexByte(guest, ':')+1:], `\`, "/")
	}
	name := path.Base(path.Clean(guest))
	if name == "." || name == ".." || name == "/" {
		return "", false
	}
	if _, err := filepath.Localize(name); err != nil {
		return "", false
	}
	return name, true
}

// checkRoom tells whether something can be made at target, with the folders that lead there.
func checkRoom(target string) error {
	for folder := filepath.Dir(target); ; folder = filepath.Dir(folder) {
		info, err := os.Stat(folder)
		switch {
		case (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) && folder != filepath.Dir(folder):
			continue
		case err != nil:
			return fmt.Errorf("nothing can be put at %q: %w", target, err)
		case !info.IsDir():
			return fmt.Errorf("nothing can be put at %q: %q is no folder", target, folder)
		}
		probe, err := os.CreateTemp(folder, ".metaservice-*")
		if err != nil {
			return fmt.Errorf("nothing can be put at %q: the folder %q must be writable: %w", target, folder, err)
		}
		return errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
}

// fetched is what became of one artifact.
type fetched struct {
	artifact
	kind string // "file" or "folder"; empty where the guest never told
	host.Collected
}

// fetch brings one artifact out. What is there already is replaced file by file, and never written
// through: no link in the target leads out of it.
func fetch(ctx context.Context, service *host.Service, a artifact, progress func(host.Progress)) fetched {
	f := fetched{artifact: a}
	var open *rootfolder.Folder
	wanted := host.Wanted{
		Path: a.path,
		File: func() (ports.Storage, error) {
			f.kind = "file"
			if info, err := os.Stat(a.target); err == nil && info.IsDir() {
				if name, ok := baseName(a.path); ok {
					f.target = filepath.Join(a.target, name)
				}
			}
			var err error
			if open, err = rootfolder.Open(filepath.Dir(f.target)); err != nil {
				return nil, err
			}
			return open.File(filepath.Base(f.target)), nil
		},
		Folder: func() (ports.Folder, error) {
			f.kind = "folder"
			var err error
			open, err = rootfolder.Open(a.target)
			return open, err
		},
	}
	f.Collected = service.Collect(ctx, wanted, progress)
	if open != nil {
		f.Err = errors.Join(f.Err, open.Close())
	}
	return f
}
