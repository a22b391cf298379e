package processes

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/ports"
)

// cgroupPrefix begins the names of our cgroups' folders.
const cgroupPrefix = "metaservice-"

// cgroup is a folder in a hierarchy of version 2. As long as we live its folder is locked, so that
// others can tell an abandoned one.
type cgroup struct {
	path   string // of the folder
	name   string // as /proc/PID/cgroup has it
	folder *os.File
}

var errNoCgroup = errors.New("no hierarchy of cgroups of version 2 is mounted that holds this process")

// ownCgroup is the cgroup that we are in: its folder, and its name in /proc.
func ownCgroup() (folder, name string, err error) {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", "", err
	}
	name, ok := unifiedPath(membership)
	if !ok {
		return "", "", errNoCgroup
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return "", "", err
	}
	for _, mount := range mounts {
		if folder, ok := below(mount, name); ok {
			return folder, name, nil
		}
	}
	return "", "", errNoCgroup
}

// unifiedPath finds version 2's line, "0::PATH", in /proc/self/cgroup.
func unifiedPath(membership []byte) (string, bool) {
	lines := bufio.NewScanner(bytes.NewReader(membership))
	for lines.Scan() {
		if path, ok := strings.CutPrefix(lines.Text(), "0::"); ok {
			return path, true
		}
	}
	return "", false
}

// below is the folder in which a mount shows a cgroup. A container may show less than the whole
// hierarchy, or a part in which we aren't.
func below(mount *mountinfo.Info, cgroup string) (string, bool) {
	relative, err := filepath.Rel(mount.Root, cgroup)
	if err != nil || relative == ".." || strings.HasPrefix(relative, "../") {
		return "", false
	}
	return filepath.Join(mount.Mountpoint, relative), true
}

// newCgroup makes a cgroup below our own.
func newCgroup() (*cgroup, error) {
	own, name, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	sweepCgroups(own, name)
	for {
		path, err := os.MkdirTemp(own, cgroupPrefix)
		if err != nil {
			return nil, err
		}
		c, err := lockCgroup(path)
		if err == nil {
			c.name = filepath.Join(name, filepath.Base(path))
			return c, nil
		}
		_ = unix.Rmdir(path)
		if !errors.Is(err, errSwept) {
			return nil, err
		}
	}
}

// errSwept is a new cgroup that another's sweep took for an abandoned one, before it was locked.
var errSwept = errors.New("swept away")

func lockCgroup(path string) (*cgroup, error) {
	folder, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errSwept
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		folder.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errSwept
		}
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		folder.Close()
		return nil, errSwept
	}
	return &cgroup{path: path, folder: folder}, nil
}

// sweepCgroups removes what those of us left who were killed, folders that nobody has locked, and ends what still
// runs in them: nobody is left whom it could be for, and whoever comes next may be about to run the same again. What
// won't die stays for the next sweep.
func sweepCgroups(own, name string) {
	abandoned, _ := filepath.Glob(filepath.Join(own, cgroupPrefix+"*"))
	for _, path := range abandoned {
		c, err := lockCgroup(path)
		if err != nil {
			continue
		}
		c.name = filepath.Join(name, filepath.Base(path))
		if !c.empty() {
			c.kill()
		}
		_ = c.remove()
	}
}

func (c *cgroup) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(c.path, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// event reads one flag of cgroup.events; ok is false where it can't be read.
func (c *cgroup) event(name string) (value, ok bool) {
	text, err := os.ReadFile(filepath.Join(c.path, "cgroup.events"))
	if err != nil {
		return false, false
	}
	return counter(text, name) != 0, true
}

// counter finds "NAME NUMBER" among a cgroup file's lines; what isn't there is 0.
func counter(text []byte, name string) int {
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == name {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}

func (c *cgroup) freeze() {
	if c.write("cgroup.freeze", "1") != nil {
		return
	}
	over := time.Now().Add(freezePatience)
	for {
		frozen, ok := c.event("frozen")
		if frozen || !ok || time.Now().After(over) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// thaw lets those go on, too, that a signal had stopped before.
func (c *cgroup) thaw() {
	c.signal(syscall.SIGCONT)
	_ = c.write("cgroup.freeze", "0")
}

func (c *cgroup) signal(sig syscall.Signal) {
	for _, pid := range c.members() {
		sendIf(pid, sig, func() bool { return c.holds(pid) })
	}
}

// holds tells whether a process is in the cgroup or below it.
func (c *cgroup) holds(pid int) bool {
	membership, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return false
	}
	name, ok := unifiedPath(membership)
	return ok && (name == c.name || strings.HasPrefix(name, c.name+"/"))
}

// kill uses cgroup.kill, which nothing can fork away from. Kernels before 5.14 don't have it.
func (c *cgroup) kill() {
	if c.write("cgroup.kill", "1") != nil {
		c.killEach()
	}
}

func (c *cgroup) killEach() {
	c.freeze()
	c.signal(syscall.SIGKILL) // which ends what is frozen, too
	c.thaw()
}

func (c *cgroup) empty() bool {
	populated, ok := c.event("populated")
	return ok && !populated || c.gone()
}

func (c *cgroup) gone() bool {
	_, err := os.Stat(c.path)
	return errors.Is(err, fs.ErrNotExist)
}

func (c *cgroup) survivors() []ports.Survivor {
	var left []ports.Survivor
	for _, pid := range c.members() {
		s, err := readStat(pid)
		if err == nil && !s.dead() {
			left = append(left, ports.Survivor{PID: pid, Command: s.command})
		}
	}
	return left
}

// members lists the processes in the cgroup, and in those that its own members made below it.
func (c *cgroup) members() []int {
	var pids []int
	_ = filepath.WalkDir(c.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // what vanishes meanwhile has no members
		}
		text, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil // a threaded cgroup: its members are in the list of the one above
		}
		for field := range strings.FieldsSeq(string(text)) {
			// 0 stands for one in another pid namespace. As a signal's target it would be our own group.
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// oomKills is how often the kernel killed in the cgroup for want of memory, where it counts that.
func (c *cgroup) oomKills() int {
	text, err := os.ReadFile(filepath.Join(c.path, "memory.events"))
	if err != nil {
		return 0
	}
	return counter(text, "oom_kill")
}

// remove removes the empty cgroup. A process that has just died may hold it for a moment more.
func (c *cgroup) remove() error {
	over := time.Now().Add(time.Second)
	for {
		err := removeCgroups(c.path)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(over) {
			c.folder.Close()
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// removeCgroups removes a cgroup's folder and those below it. The files in them can't be removed, and
// needn't be.
func removeCgroups(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroups(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	return nil
}
