package processes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// command is a ports.ProcessSpec once all of it that can be checked beforehand has been.
type command struct {
	path       string // what to execute, absolute or relative to dir
	args       []string
	env        []string // never nil: to the standard library that would be our own
	dir        string
	user       string      // as it was asked for
	credential *credential // nil: ourselves
}

// credential is who a command runs as.
type credential struct {
	UID, GID uint32
	Groups   []uint32
}

var (
	errFolder        = errors.New("it is a folder")
	errNoFile        = errors.New("it is not a regular file")
	errNotExecutable = errors.New("it is not executable: give it the permission (chmod +x)")
)

func startError(code int, format string, args ...any) *ports.StartError {
	return &ports.StartError{ExitCode: code, Err: fmt.Errorf(format, args...)}
}

// resolve checks a spec. Its errors are *ports.StartError.
func resolve(spec ports.ProcessSpec) (*command, error) {
	if len(spec.Command) == 0 || spec.Command[0] == "" {
		return nil, startError(domain.ExitNotFound, "the command is empty: give a program's name or path")
	}
	if i := slices.IndexFunc(spec.Command, hasNUL); i >= 0 {
		return nil, startError(domain.ExitNotExecutable, "argument %d of command %s holds a NUL byte", i, domain.Quote(spec.Command[0]))
	}
	if i := slices.IndexFunc(spec.Env, hasNUL); i >= 0 {
		// The variable's name alone: its value may be a secret.
		name, _, _ := strings.Cut(spec.Env[i], "=")
		return nil, startError(domain.ExitNotExecutable, "the environment variable %s holds a NUL byte", domain.Quote(name))
	}
	if err := checkDir(spec.Dir); err != nil {
		return nil, err
	}
	credential, err := lookupUser(spec.User)
	if err != nil {
		return nil, startError(domain.ExitNotExecutable, "%w", err)
	}
	cmd := &command{args: spec.Command, env: lastOfEach(spec.Env), dir: spec.Dir, user: spec.User, credential: credential}
	if cmd.path, err = find(cmd.args[0], cmd.env, cmd.dir); err != nil {
		return nil, err
	}
	return cmd, nil
}

func hasNUL(text string) bool { return strings.IndexByte(text, 0) >= 0 }

func checkDir(dir string) error {
	if dir == "" {
		return nil
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return startError(domain.ExitNotExecutable, "the working folder %s does not exist", domain.Quote(dir))
	case err != nil:
		return startError(domain.ExitNotExecutable, "the working folder can't be used: %w", err)
	case !info.IsDir():
		return startError(domain.ExitNotExecutable, "the working folder %s is not a folder", domain.Quote(dir))
	}
	return nil
}

// lastOfEach drops what a later entry of the same name replaces: most programs would take the first.
func lastOfEach(env []string) []string {
	seen := make(map[string]bool, len(env))
	kept := make([]string, 0, len(env))
	for _, variable := range slices.Backward(env) {
		name, _, ok := strings.Cut(variable, "=")
		if runtime.GOOS == "windows" {
			name = strings.ToUpper(name)
		}
		if ok && seen[name] {
			continue
		}
		seen[name] = ok
		kept = append(kept, variable)
	}
	slices.Reverse(kept)
	return kept
}

func searchPath(env []string) string {
	for _, variable := range env {
		if path, ok := strings.CutPrefix(variable, "PATH="); ok {
			return path
		}
	}
	return DefaultPath
}

// find finds a command as a shell does: by its path, or else by its name on the PATH.
func find(name string, env []string, dir string) (string, error) {
	if strings.ContainsRune(name, '/') || strings.ContainsRune(name, filepath.Separator) {
		path, err := executable(name, dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", startError(domain.ExitNotFound, "command %s does not exist", domain.Quote(within(dir, name)))
		case err != nil:
			return "", startError(domain.ExitNotExecutable, "command %s can't be run: %w", domain.Quote(within(dir, name)), err)
		}
		return path, nil
	}
	search := searchPath(env)
	var refused error
	for _, folder := range pathList(search) {
		path, err := executable(filepath.Join(folder, name), dir)
		switch {
		case err == nil:
			return path, nil
		case errors.Is(err, errNotExecutable) && refused == nil:
			refused = startError(domain.ExitNotExecutable, "command %s was found on PATH as %s, but %w",
				domain.Quote(name), domain.Quote(filepath.Join(folder, name)), err)
		}
	}
	if refused != nil {
		return "", refused
	}
	return "", startError(domain.ExitNotFound, "command %s not found on PATH %s", domain.Quote(name), domain.Quote(search))
}

// pathList is SplitList, with the current folder for an empty PATH and for each empty part of it.
func pathList(search string) []string {
	if search == "" {
		return []string{"."}
	}
	return filepath.SplitList(search)
}

// within is path as seen from here, for a process that starts in dir.
func within(dir, path string) string {
	if dir == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// failed tells why the system refused a command that had passed every check.
func (c *command) failed(err error) *ports.StartError {
	name := domain.Quote(within(c.dir, c.path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, gone := os.Stat(within(c.dir, c.path)); gone != nil {
			return startError(domain.ExitNotFound, "command %s does not exist any more", name)
		}
		return startError(domain.ExitNotExecutable, "command %s can't be run: the interpreter on its first line, or the loader that it was linked for, does not exist here", name)
	case errors.Is(err, syscall.ENOEXEC):
		return startError(domain.ExitNotExecutable, "command %s can't be run: it is neither a program for %s/%s nor a script that begins with #!", name, runtime.GOOS, runtime.GOARCH)
	case errors.Is(err, fs.ErrPermission) && c.credential != nil:
		return startError(domain.ExitNotExecutable, "command %s can't be run as user %s: it must be allowed to run the file and to enter the working folder %s: %w", name, domain.Quote(c.user), domain.Quote(c.dir), err)
	}
	return startError(domain.ExitNotExecutable, "command %s can't be run: %w", name, err)
}
