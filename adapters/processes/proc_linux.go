package processes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/ports"
)

// stat is what /proc tells of a process.
type stat struct {
	pid, parent, session int
	state                byte
	exiting              bool
	start                uint64 // with the pid, names one process for ever: pids are used again
	command              string
}

func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

// stopped is true for what can't fork: stopped, stopped by a debugger, or about to be dead.
func (s stat) stopped() bool { return s.state == 'T' || s.state == 't' || s.exiting }

var errStat = errors.New("not a line of /proc/PID/stat")

func readStat(pid int) (stat, error) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(line)
}

// parseStat reads "PID (COMMAND) STATE PARENT GROUP SESSION … START …". The command may hold anything,
// parentheses and newlines too; the rest holds none.
func parseStat(line []byte) (stat, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return stat{}, errStat
	}
	const flags, start = 6, 19 // of the fields after the command
	const exiting = 0x4        // the kernel's PF_EXITING
	fields := strings.Fields(string(line[end+1:]))
	if len(fields) <= start {
		return stat{}, errStat
	}
	s := stat{state: fields[0][0], command: string(line[open+1 : end])}
	var errs [5]error
	s.pid, errs[0] = strconv.Atoi(strings.TrimSpace(string(line[:open])))
	s.parent, errs[1] = strconv.Atoi(fields[1])
	s.session, errs[2] = strconv.Atoi(fields[3])
	s.start, errs[3] = strconv.ParseUint(fields[start], 10, 64)
	set, err := strconv.ParseUint(fields[flags], 10, 32)
	s.exiting, errs[4] = set&exiting != 0, err
	if err := errors.Join(errs[:]...); err != nil {
		return stat{}, fmt.Errorf("%w: %w", errStat, err)
	}
	return s, nil
}

// commandAlive tells whether a command that nobody has reaped yet is more than a zombie.
func commandAlive(pid int, reaped <-chan struct{}) bool {
	select {
	case <-reaped:
		return false
	default:
	}
	s, err := readStat(pid)
	return err != nil || !s.dead()
}

// procTree is the part of all processes that own picks, and whatever descends from it.
type procTree struct {
	own   func(stat) bool
	group int // signalled in the tree's place where there is no /proc

	mu    sync.Mutex
	known map[int]uint64 // guarded by mu: the start of each that the last look found, by pid
}

// scan lists the tree, without its zombies. whole is false where it may have missed something: /proc is
// read one process after the other, while parents die and orphans get another.
func (t *procTree) scan() (found []stat, whole bool, err error) {
	folder, err := os.Open("/proc")
	if err != nil {
		return nil, false, err
	}
	names, err := folder.Readdirnames(-1)
	folder.Close()
	if err != nil {
		return nil, false, err
	}
	t.mu.Lock()
	known := t.known
	t.mu.Unlock()
	next := make(map[int]uint64)
	all := make(map[int]stat, len(names))
	whole = true
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		s, err := readStat(pid)
		switch {
		case err == nil:
			all[pid] = s
			continue
		case !errors.Is(err, fs.ErrPermission): // what is hidden from us isn't ours
			whole = false
		}
		if start, ok := known[pid]; ok && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			next[pid] = start // it may be there still
		}
	}
	for _, s := range all {
		if !s.dead() && t.holds(all, known, s) {
			found = append(found, s)
			next[s.pid] = s.start
		}
	}
	t.mu.Lock()
	t.known = next
	t.mu.Unlock()
	return found, whole, nil
}

// holds climbs from a process to its ancestors. What was of the tree before still is, and so is what comes of it: while
// a process dies it closes its files, and those who led to it may have died first.
func (t *procTree) holds(all map[int]stat, known map[int]uint64, s stat) bool {
	for range len(all) { // a picture that was taken piecemeal may have a loop in it
		if start, ok := known[s.pid]; ok && start == s.start || t.own(s) {
			return true
		}
		parent, ok := all[s.parent]
		if !ok {
			return false
		}
		s = parent
	}
	return false
}

func (t *procTree) freeze() {
	over := time.Now().Add(freezePatience)
	for {
		found, whole, err := t.scan()
		if err != nil {
			t.signal(syscall.SIGSTOP)
			return
		}
		settled := whole
		for _, s := range found {
			if !s.stopped() {
				send(s, syscall.SIGSTOP)
				settled = false
			}
		}
		// Settled is a whole picture in which nothing could fork any more when it was taken.
		if settled || time.Now().After(over) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (t *procTree) signal(sig syscall.Signal) {
	found, _, err := t.scan()
	if err != nil {
		if t.group > 0 {
			_ = syscall.Kill(-t.group, sig)
		}
		return
	}
	for _, s := range found {
		send(s, sig)
	}
}

func (t *procTree) thaw() { t.signal(syscall.SIGCONT) }

func (t *procTree) kill() {
	t.freeze()
	t.signal(syscall.SIGKILL)
}

func (t *procTree) empty() bool {
	found, whole, err := t.scan()
	return err != nil || (whole && len(found) == 0)
}

func (t *procTree) survivors() []ports.Survivor {
	found, _, _ := t.scan()
	var left []ports.Survivor
	for _, s := range found {
		left = append(left, ports.Survivor{PID: s.pid, Command: s.command})
	}
	return left
}

// hangUpSession tells a session what one hears whose terminal is hung up: all of it, as a shell would pass it
// on to its jobs, but not those who have left it.
func hangUpSession(leader int) {
	session := &procTree{own: func(p stat) bool { return p.session == leader }}
	found, _, err := session.scan()
	if err != nil {
		_ = syscall.Kill(-leader, syscall.SIGHUP)
		_ = syscall.Kill(-leader, syscall.SIGCONT)
		return
	}
	// The leader first, as the system does it: else the others' end might be its own, and a good one.
	if i := slices.IndexFunc(found, func(s stat) bool { return s.pid == leader }); i > 0 {
		found[0], found[i] = found[i], found[0]
	}
	for _, s := range found {
		if s.session == leader { // and no descendant that leads another
			send(s, syscall.SIGHUP)
			send(s, syscall.SIGCONT) // or what is stopped would not hear it
		}
	}
}

// send signals exactly the process that was seen: between the look and the signal its pid may have gone
// to another, and we may be root. A kernel without pidfds has to do without that care.
func send(s stat, sig syscall.Signal) {
	still := func() bool {
		now, err := readStat(s.pid)
		return err == nil && now.start == s.start
	}
	sendIf(s.pid, sig, still)
}

// sendIf signals a process if still says, once nobody else can get its pid, that it is the one meant.
// What is gone, or what only somebody else may signal, is found by the next look.
func sendIf(pid int, sig syscall.Signal, still func() bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if !errors.Is(err, unix.ESRCH) && still() {
			_ = syscall.Kill(pid, sig)
		}
		return
	}
	defer unix.Close(fd)
	if still() {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
}
