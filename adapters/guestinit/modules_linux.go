package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads the modules of a list, in its order. An image needs none whose kernel has all built
// in, and one that can't be loaded may not matter: what doesn't work without it will say so.
func loadModules(list string) error {
	text, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(text)) {
		if trouble := describeModule(loadModule(name)); trouble != "" {
			say("module %s %s", name, trouble)
		}
	}
	return nil
}

func loadModule(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if err = unix.FinitModule(int(file.Fd()), "", 0); err != nil {
		return fmt.Errorf("finit_module: %w", err)
	}
	return nil
}

// describeModule says what came of a module, nothing if it is there. That another machine has the hardware for it,
// and this one hasn't, is no fault of the image's.
func describeModule(err error) string {
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		return ""
	case errors.Is(err, unix.ENODEV):
		return "isn't needed: its hardware isn't there"
	}
	return fmt.Sprintf("can't be loaded: %v", err)
}
