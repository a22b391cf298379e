package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/tests/bench/figures"
)

// sshd is a throw-away one on loopback, with keys of its own: what people reach into a machine with.
type sshd struct {
	client []string // ssh and its flags
}

func newSSHD(b *testing.B) *sshd {
	b.Helper()
	server, err := exec.LookPath("sshd")
	if err != nil {
		server, err = exec.LookPath("/usr/sbin/sshd")
	}
	if err != nil {
		b.Fatalf("sshd is missing: make bench installs it: %v", err)
	}
	folder := b.TempDir()
	in := func(name string) string { return filepath.Join(folder, name) }
	for _, key := range []string{"host", "user"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", in(key)).CombinedOutput()
		if err != nil {
			b.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	must(b, os.MkdirAll("/run/sshd", 0o755)) // where sshd locks itself up, on Debian
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	must(b, errors.Join(err, listener.Close()))
	config := fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n",
		port, in("host"), in("user.pub"))
	must(b, os.WriteFile(in("config"), []byte(config), 0o600))

	cmd := exec.Command(server, "-D", "-e", "-f", in("config"))
	var said bytes.Buffer
	cmd.Stderr = &said
	must(b, cmd.Start())
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if b.Failed() {
			b.Logf("sshd: %s", &said)
		}
	})
	s := &sshd{client: []string{"ssh", "-q", "-F", "none", "-p", port, "-i", in("user"), "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "127.0.0.1"}}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if s.run(nil, "true") == nil {
			return s
		}
		if time.Now().After(deadline) {
			b.Fatal("sshd doesn't let us in")
		}
	}
}

// run runs a command over ssh, with its output dropped as it comes.
func (s *sshd) run(stdin io.Reader, command ...string) error {
	cmd := exec.Command(s.client[0], append(s.client[1:], strings.Join(command, " "))...)
	cmd.Stdin = stdin
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = copy64(io.Discard, out)
	return errors.Join(err, cmd.Wait())
}

func (s *sshd) output(b *testing.B) float64 {
	start := time.Now()
	must(b, s.run(nil, produce...))
	return rate(gibibyte, time.Since(start))
}

func (s *sshd) input(b *testing.B) float64 {
	start := time.Now()
	must(b, s.run(io.LimitReader(endless{}, gibibyte), "cat >/dev/null"))
	return rate(gibibyte, time.Since(start))
}

// BenchmarkShellBesideSSH is what BenchmarkShellOutput and BenchmarkShellInput measure, beside ssh with its
// default cipher to this machine.
func BenchmarkShellBesideSSH(b *testing.B) {
	guest, ssh := newGuestProcess(b, nil), newSSHD(b)
	b.Run("output", func(b *testing.B) {
		compare(b, figures.Figure{What: "a shell's output, and ssh", Unit: "MiB/s", Beside: "ssh with its default cipher", Wanted: 2},
			func() float64 { return guest.output(b) }, func() float64 { return ssh.output(b) })
	})
	b.Run("input", func(b *testing.B) {
		compare(b, figures.Figure{What: "a shell's input, and ssh", Unit: "MiB/s", Beside: "ssh with its default cipher", Wanted: 2},
			func() float64 { return guest.input(b) }, func() float64 { return ssh.input(b) })
	})
}
