package processmachine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const toolsName = "guest-tools"

// ErrNoTools is a search for guest-tools that found none; whoever tells it says what was sought.
var ErrNoTools = errors.New("neither given, nor beside this program, nor on PATH")

// FindTools finds the program guest-tools, and looks whether it can be run: where it is given, else beside
// this program, else on PATH. ErrNoTools, or what is wrong with the one that is given.
func FindTools(given string) (string, error) {
	if given != "" {
		return checkTools(given)
	}
	name := toolsName
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if linked, err := filepath.EvalSymlinks(self); err == nil {
			self = linked
		}
		if found, err := checkTools(filepath.Join(filepath.Dir(self), name)); err == nil {
			return found, nil
		}
	}
	if found, err := exec.LookPath(toolsName); err == nil {
		return filepath.Abs(found)
	}
	return "", ErrNoTools
}

func checkTools(path string) (string, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(full)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%q is no file", path)
	case runtime.GOOS != "windows" && info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%q is not executable; chmod +x makes it so", path)
	}
	return full, nil
}
