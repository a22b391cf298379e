package metaservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/adapters/processmachine"
	"github.com/hexworker/metaservice/ports"
)

// shimCommand is guest-tools' own argument under which they hold the processes of a guest. It ends all
// of them even where the host is killed.
const shimCommand = "tree-shim"

// newProcessMachine makes the machine that an Environment without one has.
func newProcessMachine(tools, folder string, logger *slog.Logger) (ports.Machine, error) {
	trees, err := processes.New(processes.Config{
		Mode: processes.ModeShim, Shim: []string{tools, shimCommand}, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	return processmachine.New(processmachine.Config{
		GuestTools: tools,
		Processes:  trees,
		Serve: func(ctx context.Context, listener net.Listener, handler http.Handler) error {
			return httpserver.Serve(ctx, listener, handler, logger)
		},
		Folder: folder,
		Logger: logger,
	})
}

const guestTools = "guest-tools"

// findGuestTools finds the program: where it is given, else beside ours, else on PATH.
func findGuestTools(given string) (string, error) {
	if given != "" {
		return checkGuestTools(given)
	}
	name := guestTools
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if linked, err := filepath.EvalSymlinks(self); err == nil {
			self = linked
		}
		if found, err := checkGuestTools(filepath.Join(filepath.Dir(self), name)); err == nil {
			return found, nil
		}
	}
	if found, err := exec.LookPath(guestTools); err == nil {
		return filepath.Abs(found)
	}
	return "", errors.New("neither given, nor beside this program, nor on PATH")
}

func checkGuestTools(path string) (string, error) {
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
		return "", fmt.Errorf("%q is not executable", path)
	}
	return full, nil
}
