//go:build linux

package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// programFor builds metaservice, and runs it for a test.
func programFor(t *testing.T) func(args ...string) (status int, stdout, stderr string) {
	t.Helper()
	needVM(t)
	program := filepath.Join(t.TempDir(), "metaservice")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, "github.com/hexworker/metaservice/cmd/metaservice")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return func(args ...string) (int, string, string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "METASERVICE_IMAGE="+image.Dir)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // its state tells
		t.Cleanup(func() {
			if left := qemus(image.Dir); len(left) > 0 {
				t.Errorf("%q left QEMU: %v", args, left)
			}
		})
		return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
	}
}

// The command line in real machines, as its manual has it.
func TestCommandLine(t *testing.T) {
	run := programFor(t)
	folder := t.TempDir()
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}

	release := filepath.Join(folder, "release")
	status, stdout, stderr := run("run", "--machine", "qemu", "--memory", "192MiB", "--cpus", "2", "--network", "nat", "--env", "WHO=guest",
		"--artifact", "/proc/sys/kernel/osrelease="+release, "--console", filepath.Join(folder, "console"),
		"--", "sh", "-c", `uname -nr; echo $WHO; grep -c ^processor /proc/cpuinfo; grep -c default /etc/resolv.conf; ip route | grep -o 'default via 169.254.169.254'; exit 3`)
	if status != 3 {
		t.Errorf("status %d, %s", status, stderr)
	}
	kernel, err := os.ReadFile(release)
	if err != nil || bytes.Equal(kernel, host) {
		t.Errorf("the guest's kernel is %s, %v", kernel, err)
	}
	if want := "guest " + string(kernel) + "guest\n2\n0\ndefault via 169.254.169.254\n"; stdout != want {
		t.Errorf("the log is %q, want %q", stdout, want)
	}
	if console, err := os.ReadFile(filepath.Join(folder, "console")); err != nil || !strings.Contains(string(console), "msg=\"the host has a task\"") {
		t.Errorf("the console is %q, %v", console, err)
	}

	status, stdout, stderr = run("shell", "--machine", "qemu", "--", "sh", "-c", "uname -r; exit 4")
	if status != 4 || stdout != string(kernel) {
		t.Errorf("a shell: status %d, %q, %s", status, stdout, stderr)
	}

	status, stdout, stderr = run("run", "--machine", "qemu", "--", "sh", "-c", "echo begun; sleep 10; reboot -f; sleep 100")
	if status != 125 || stdout != "begun\n" || !strings.Contains(stderr, "the guest rebooted") {
		t.Errorf("a reboot: status %d, %q, %s", status, stdout, stderr)
	}
}
