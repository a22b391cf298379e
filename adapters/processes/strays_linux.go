package processes

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hexworker/metaservice/ports"
)

// strays is a tree that has lost its shim, as far as it can still be found: the command's session, those
// who can write to its output, and what descends from either.
type strays struct {
	command int // its pid; 0 where it isn't known
	start   uint64
	written []os.FileInfo // what the tree writes to
}

// written tells the files that a tree writes to from all others. Its input is none of them: that may be
// /dev/null, which everybody has open.
func (s standard) written() ([]os.FileInfo, error) {
	out, err := s.out.Stat()
	if err != nil || s.err == s.out {
		return []os.FileInfo{out}, err
	}
	errors, err := s.err.Stat()
	return []os.FileInfo{out, errors}, err
}

// kill kills the strays, and returns those that won't die.
func (s *strays) kill() []ports.Survivor {
	own, _ := unix.Getsid(0)
	command := s.command
	if now, err := readStat(command); err == nil && now.start != s.start {
		command = 0 // its number is in use again, which tells that all of its session is gone
	}
	tree := &procTree{own: func(p stat) bool {
		switch {
		case p.session == own || p.session == 0:
			return false // we read the output, and so do children of ours for a moment after their fork
		case command != 0 && (p.pid == command || p.session == command):
			return true
		}
		return s.writes(p.pid)
	}}
	return newKiller(tree, func() bool { return false }).kill(atOnce(), 0)
}

// writes tells whether a process has the tree's output open.
func (s *strays) writes(pid int) bool {
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	for _, file := range files {
		info, err := os.Stat(file)
		if err == nil && slices.ContainsFunc(s.written, func(w os.FileInfo) bool { return os.SameFile(info, w) }) {
			return true
		}
	}
	return false
}
