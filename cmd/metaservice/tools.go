package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const toolsName = "guest-tools"

// findTools finds the guest's tools: where --guest-tools says, else beside metaservice itself, else on
// the PATH.
func findTools(given string) (string, error) {
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
	return "", errors.New("guest-tools, which run the task, are neither beside metaservice nor on the PATH: " +
		"put them there, or name them with --guest-tools FILE; 'make build' builds both")
}

func checkTools(path string) (string, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(full)
	switch {
	case err != nil:
		return "", fmt.Errorf("--guest-tools can't be used: %w; 'make build' builds them", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("--guest-tools can't be used: %q is no file", path)
	case runtime.GOOS != "windows" && info.Mode()&0o111 == 0:
		return "", fmt.Errorf("--guest-tools can't be used: %q is not executable; chmod +x makes it so", path)
	}
	return full, nil
}
