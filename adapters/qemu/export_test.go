package qemu

// FakeHost is a host of a test's.
type FakeHost struct {
	CPUInfo string
	KVM     func() error
	Memory  int64
}

func (h FakeHost) cpuinfo() (string, error) { return h.CPUInfo, nil }
func (h FakeHost) openKVM() error           { return h.KVM() }
func (h FakeHost) memory() (int64, error)   { return h.Memory, nil }

// On puts a machine on another host.
func (m *Machine) On(host FakeHost) { m.host = host }

// Accelerate is for the test of it, and what follows too.
func (m *Machine) Accelerate() (Acceleration, error) { return m.accelerate() }

func (m *Machine) Arguments(options []byte, acceleration Acceleration) ([]string, error) {
	w, err := m.wish(options)
	return m.arguments(w, acceleration), err
}

// OpenNameless and OpenAndRemove make a disk's overlay, on either kind of file system.
var (
	OpenNameless  = openNameless
	OpenAndRemove = openAndRemove
)

var ParseMeminfo = parseMeminfo
