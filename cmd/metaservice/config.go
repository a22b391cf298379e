package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"

	"github.com/hexworker/metaservice/adapters/guestconfig"
	"github.com/hexworker/metaservice/adapters/processmachine"
	"github.com/hexworker/metaservice/domain"
)

// maxConfig bounds the file of --config, as guest-tools do.
const maxConfig = 1 << 20

// guestConfig is what the file of --config says. The guest has a copy of its text.
type guestConfig struct {
	text  string
	owner *processmachine.Owner // whom the task runs as; nil is us
}

// readConfig reads and checks the file of --config, before a guest finds its copy wrong under a name
// that nobody knows. An empty path is none.
func readConfig(path string) (guestConfig, error) {
	if path == "" {
		return guestConfig{}, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return guestConfig{}, fmt.Errorf("--config can't be read: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("it has more than %d bytes", maxConfig)
	}
	if err != nil {
		return guestConfig{}, fmt.Errorf("--config %q can't be read: %w", path, err)
	}
	parsed, err := guestconfig.Parse(text)
	if err != nil {
		return guestConfig{}, fmt.Errorf("--config %q can't be used: %w", path, err)
	}
	owner, err := ownerOf(parsed.User)
	if err != nil {
		return guestConfig{}, fmt.Errorf("--config %q can't be used: %w", path, err)
	}
	return guestConfig{text: string(text), owner: owner}, nil
}

// ownerOf is the user that guest-tools take name for: a name, a uid or uid:gid. Windows, where users
// have no numbers, runs no task as another.
func ownerOf(name string) (*processmachine.Owner, error) {
	if name == "" || runtime.GOOS == "windows" {
		return nil, nil
	}
	first, second, both := strings.Cut(name, ":")
	if _, err := strconv.ParseUint(first, 10, 32); err == nil {
		if both {
			return owner(first, second)
		}
		if known, err := user.LookupId(first); err == nil {
			return owner(known.Uid, known.Gid)
		}
		return owner(first, first)
	}
	known, err := user.Lookup(name)
	if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
		return nil, fmt.Errorf("user %s does not exist: give the name of one that does, a uid, or uid:gid", domain.Quote(name))
	}
	if err != nil {
		return nil, fmt.Errorf("user %s can't be looked up (a uid or uid:gid needs no look-up): %w", domain.Quote(name), err)
	}
	return owner(known.Uid, known.Gid)
}

func owner(uid, gid string) (*processmachine.Owner, error) {
	u, uidErr := strconv.ParseUint(uid, 10, 32)
	g, gidErr := strconv.ParseUint(gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, fmt.Errorf("user %s: it must be a name, a uid or uid:gid", domain.Quote(uid+":"+gid))
	}
	return &processmachine.Owner{UID: int(u), GID: int(g)}, nil
}
