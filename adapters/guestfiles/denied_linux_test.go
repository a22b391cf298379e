package guestfiles_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Nothing is denied to root, so as root the suite runs once more as somebody else.
func TestContractAsNobody(t *testing.T) {
	const nobody = 65534
	if os.Getuid() != 0 {
		return // TestContract is enough
	}
	folder, err := os.MkdirTemp("", "as-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chown(folder, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestContract$/denied|nothing", "-test.v")
	cmd.Dir = folder
	cmd.Env = []string{"TMPDIR=" + folder}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	t.Logf("%s", output)
}
