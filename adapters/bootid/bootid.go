// Package bootid tells one boot of the guest from the next.
package bootid

import (
	"os"
	"strings"

	"github.com/google/uuid"
)

// kernelFile holds a UUID that Linux makes at each boot.
const kernelFile = "/proc/sys/kernel/random/boot_id"

// Get is the kernel's boot id. Where there is none, it is a new one for each start of this program:
// the host then takes a restart of the program for a reboot, which is safe.
func Get() string { return get(kernelFile) }

func get(file string) string {
	data, err := os.ReadFile(file)
	if id, parseErr := uuid.Parse(strings.TrimSpace(string(data))); err == nil && parseErr == nil {
		return id.String()
	}
	return uuid.NewString()
}
