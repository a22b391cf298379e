package qemu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// host is what a machine must know of the host that it is on.
type host interface {
	cpuinfo() (string, error)
	openKVM() error
	memory() (int64, error) // in bytes
}

// realHost is the host that this process is on.
type realHost struct{}

func (realHost) cpuinfo() (string, error) {
	text, err := os.ReadFile("/proc/cpuinfo")
	return string(text), err
}

// openKVM tells whether KVM can be opened.
func (realHost) openKVM() error {
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

func (realHost) memory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return parseMeminfo(string(text))
}

// parseMeminfo finds how much memory there is in all.
func parseMeminfo(text string) (int64, error) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "MemTotal:" || words[2] != "kB" {
			continue
		}
		if n, err := strconv.ParseInt(words[1], 10, 64); err == nil && n < 1<<52 {
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/meminfo doesn't say how much memory there is")
}
