//go:build unix

package processes

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/hexworker/metaservice/domain"
)

// DefaultPath is where commands are looked up whose environment has no PATH.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// executable checks that a path can be executed, by somebody: whom it will be is not us.
func executable(path, dir string) (string, error) {
	info, err := os.Stat(within(dir, path))
	switch {
	case err != nil:
		return "", err
	case info.IsDir():
		return "", errFolder
	case !info.Mode().IsRegular():
		return "", errNoFile
	case info.Mode()&0o111 == 0:
		return "", errNotExecutable
	}
	return path, nil
}

// lookupUser turns a user into ids; nil is the one that we are. Numbers work where there is no user
// database.
func lookupUser(name string) (*credential, error) {
	if name == "" {
		return nil, nil
	}
	c, err := credentialOf(name)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		return c, nil
	}
	if int(c.UID) == os.Geteuid() && int(c.GID) == os.Getegid() {
		return nil, nil // only root may set groups, even to what they are
	}
	return nil, fmt.Errorf("a command can be run as user %s only by root, and this is uid %d", domain.Quote(name), os.Geteuid())
}

func credentialOf(name string) (*credential, error) {
	first, second, both := strings.Cut(name, ":")
	uid, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return credentialOfName(name)
	}
	if both {
		gid, err := strconv.ParseUint(second, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s is not uid:gid: the group must be a number", domain.Quote(name))
		}
		return &credential{UID: uint32(uid), GID: uint32(gid), Groups: []uint32{uint32(gid)}}, nil
	}
	if u, err := user.LookupId(first); err == nil {
		return credentialOfUser(u)
	}
	// The group 0, which some take here, would be root's.
	return &credential{UID: uint32(uid), GID: uint32(uid), Groups: []uint32{uint32(uid)}}, nil
}

func credentialOfName(name string) (*credential, error) {
	u, err := user.Lookup(name)
	if unknown := user.UnknownUserError(""); errors.As(err, &unknown) || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("user %s does not exist: give the name of one that does, a uid, or uid:gid", domain.Quote(name))
	}
	if err != nil {
		return nil, fmt.Errorf("user %s can't be looked up (a uid or uid:gid needs no look-up): %w", domain.Quote(name), err)
	}
	return credentialOfUser(u)
}

func credentialOfUser(u *user.User) (*credential, error) {
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, fmt.Errorf("user %s has ids that are no numbers: %w", domain.Quote(u.Username), err)
	}
	c := &credential{UID: uint32(uid), GID: uint32(gid), Groups: []uint32{uint32(gid)}}
	groups, err := u.GroupIds()
	if err != nil {
		return c, nil // no database of groups: the user's own is all that there is
	}
	for _, group := range groups {
		if id, err := strconv.ParseUint(group, 10, 32); err == nil && uint32(id) != c.GID {
			c.Groups = append(c.Groups, uint32(id))
		}
	}
	return c, nil
}

// attributes are those that every command starts with. The session of its own keeps our terminal's
// signals away. Without a controlling terminal, children that outlive the command aren't hung up; a
// shell wants one, and then that is its standard input.
func (c *command) attributes(controlling bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Setctty: controlling}
	if c.credential != nil {
		attr.Credential = &syscall.Credential{Uid: c.credential.UID, Gid: c.credential.GID, Groups: c.credential.Groups}
	}
	return attr
}
