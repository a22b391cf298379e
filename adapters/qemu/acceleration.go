package qemu

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Acceleration is who runs the guest's instructions.
type Acceleration string

// The accelerations there are.
const (
	Auto Acceleration = "auto" // KVM where it works, else TCG
	KVM  Acceleration = "kvm"  // the processor itself
	TCG  Acceleration = "tcg"  // QEMU, in software
)

// accelerate chooses. /dev/kvm is asked for only if the processor offers what it needs: there are hosts on
// which it can be opened, and whoever uses it hangs.
func (m *Machine) accelerate() (Acceleration, error) {
	if m.config.Acceleration == TCG {
		return TCG, nil
	}
	err := m.hasKVM()
	if err == nil {
		return KVM, nil
	}
	if m.config.Acceleration == KVM {
		return "", fmt.Errorf("guests can't be run under KVM: %w", err)
	}
	m.speed.Do(func() {
		m.config.Logger.Info("guests run under TCG, in software, which is slow", slog.String("reason", err.Error()))
	})
	return TCG, nil
}

func (m *Machine) hasKVM() error {
	text, err := m.host.cpuinfo()
	if err != nil {
		return err
	}
	if !offersVirtualization(text) {
		return errors.New("the processor offers neither vmx nor svm")
	}
	return m.host.openKVM()
}

// offersVirtualization looks through /proc/cpuinfo.
func offersVirtualization(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		flags := strings.Fields(value)
		return slices.Contains(flags, "vmx") || slices.Contains(flags, "svm")
	}
	return false
}
