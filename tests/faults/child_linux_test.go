package faults

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// childVariable names the test that a child of this test's program is to run.
const childVariable = "FAULTS_CHILD"

// isChild tells whether this is the child that runs the test.
func isChild(t *testing.T) bool { return os.Getenv(childVariable) == t.Name() }

// childOf is this program again, to run the same test as a child.
func childOf(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// withMounts runs the test in a child that has mounts of its own, which the kernel undoes with it whatever
// happens, and returns true in that child.
func withMounts(t *testing.T) bool {
	t.Helper()
	if isChild(t) {
		return true
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root may mount a small disk")
		}
		t.Skip("only root may mount a small disk")
	}
	cmd := childOf(t)
	cmd.Env = append(cmd.Env, binVariable+"="+built) // where they are needed, they are built by now
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	return false
}

// smallDisk is a folder with so much room.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	folder := t.TempDir()
	if err := syscall.Mount("faults", folder, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, 0); err != nil { // EBUSY where a file is open still
			t.Errorf("the small disk can't be unmounted: %v", err)
		}
	})
	return folder
}

// room is how many bytes are free.
func room(t *testing.T, folder string) uint64 {
	t.Helper()
	var stat syscall.Statfs_t
	if err := syscall.Statfs(folder, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Bfree * uint64(stat.Bsize)
}
