package vmimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// RootBusybox is the root that is a static busybox, found on the PATH, and links to it.
const RootBusybox = "busybox"

// The few files that programs ask for.
var busyboxFiles = map[string]string{
	"etc/os-release": "NAME=\"metaservice guest\"\nID=metaservice\nPRETTY_NAME=\"metaservice guest (busybox)\"\n",
	"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"etc/group":      "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
	"etc/hosts":      "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
	"etc/shells":     "/bin/sh\n",
}

// putBusybox takes busybox in, with a link for each of its applets.
func (t tree) putBusybox(ctx context.Context) error {
	found, err := exec.LookPath(RootBusybox)
	if err != nil {
		return errors.New("there is no busybox on the PATH: install one that is static (Debian's busybox-static)")
	}
	data, err := readProgram(found)
	if err != nil {
		return fmt.Errorf("busybox %s: %w; Debian's busybox-static is such a one", found, err)
	}
	applets, err := listApplets(ctx, found)
	if err != nil {
		return err
	}
	const program = "bin/busybox"
	if err := t.putFile(program, 0o755, data); err != nil {
		return err
	}
	for _, applet := range applets {
		if err := t.putLink(applet, "/"+program); err != nil {
			return err
		}
	}
	for name, text := range busyboxFiles {
		if err := t.putFile(name, 0o644, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// listApplets asks busybox for the paths of its applets.
func listApplets(ctx context.Context, program string) ([]string, error) {
	patient, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := exec.CommandContext(patient, program, "--list-full").Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s can't tell its applets: %w", program, err)
	}
	applets := slices.DeleteFunc(strings.Fields(string(list)), func(name string) bool {
		// guest-tools are init, and linuxrc is what init was called in an initrd of old.
		return name == "linuxrc" || path.Base(name) == "init" || path.Base(name) == "busybox" || !isLocalName(name)
	})
	if len(applets) == 0 {
		return nil, fmt.Errorf("%s has no applets", program)
	}
	return applets, nil
}

// readProgram reads a program for the guest, which may find no libraries there.
func readProgram(name string) ([]byte, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, unwrapPath(err)
	}
	return data, checkProgram(data)
}
