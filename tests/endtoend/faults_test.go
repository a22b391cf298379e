//go:build linux

package endtoend

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
)

// guestOf starts guest-tools for a service on loopback, and ends them with the test.
func guestOf(t *testing.T, service *metaservice.MetaService, words *sink, prepare func(*exec.Cmd)) *exec.Cmd {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- service.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	tools := exec.Command(tool("guest-tools"), "--host", listener.Addr().String())
	tools.Dir = t.TempDir()
	tools.Env = []string{"PATH=" + os.Getenv("PATH")}
	tools.Stderr = words
	if prepare != nil {
		prepare(tools)
	}
	if err := tools.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tools.Process.Signal(syscall.SIGTERM)
		if err := tools.Wait(); err != nil {
			t.Errorf("guest-tools ended with %v\n%s", err, words.String())
		}
	})
	return tools
}

// outcomeOf waits for a service's task.
func outcomeOf(t *testing.T, service *metaservice.MetaService) domain.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	outcome, err := service.Outcome(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

func fetch(t *testing.T, service *metaservice.MetaService, path string) string {
	t.Helper()
	file, err := service.GetArtifact(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A command that doesn't exist crashed the guest, so that the task never ended.
func TestFault05ACommandThatIsNotThereIsAFailedTask(t *testing.T) {
	log, words := &sink{}, &sink{}
	service := metaservice.New([]string{"/no/such/command"}, nil, log, nil, nil)
	defer service.Close()
	tools := guestOf(t, service, words, nil)
	outcome := outcomeOf(t, service)
	report := outcome.Report()
	if outcome.Status != domain.StatusFailed || report == nil || report.ExitCode != domain.ExitNotFound || report.Reason != domain.ReasonStartFailed {
		t.Errorf("outcome %+v, report %v", outcome, report)
	}
	if text := log.String(); !strings.HasPrefix(text, "guest-tools: ") || !strings.Contains(text, "/no/such/command") || strings.Count(text, "\n") != 1 {
		t.Errorf("the log is %q", text)
	}
	// And the guest goes on serving.
	if err := os.WriteFile(filepath.Join(tools.Dir, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fetch(t, service, "file"); got != "content" {
		t.Errorf("fetched %q", got)
	}
}

// The guest died where there is no /etc/passwd, no HOME and no DNS: in a mount namespace of its own it has
// nothing in either file, and no variable but PATH.
func TestFault15TheGuestRunsWithoutPasswdHomeAndDNS(t *testing.T) {
	log, words := &sink{}, &sink{}
	service := metaservice.New([]string{"sh", "-c", `printf "%s|" "$HOME"; cat /etc/passwd /etc/resolv.conf; id -u; echo made >file`}, nil, log, nil, nil)
	defer service.Close()
	guestOf(t, service, words, func(tools *exec.Cmd) {
		const bare = `for file in /etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts /etc/resolv.conf; do
			if test -e $file; then mount --bind /dev/null $file || exit 99; fi
		done; exec "$@"`
		path, err := exec.LookPath("unshare")
		if err != nil {
			t.Fatal(err)
		}
		tools.Args = append([]string{"unshare", "-m", "sh", "-c", bare, "bare"}, append([]string{tools.Path}, tools.Args[1:]...)...)
		tools.Path = path
	})
	outcome := outcomeOf(t, service)
	if !outcome.Succeeded() || log.String() != "|0\n" {
		t.Errorf("outcome %+v, log %q\n%s", outcome, log.String(), words.String())
	}
	if got := fetch(t, service, "file"); got != "made\n" {
		t.Errorf("fetched %q", got)
	}
}

// Whoever starts guest-tools or metaservice may have files open that are none of the task's business.
func TestInheritedFilesAreHiddenFromTheTask(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inherited := []*os.File{file, file, file, file}
	list := []string{"sh", "-c", "ls -l /proc/self/fd; echo listed"}

	log, words := &sink{}, &sink{}
	service := metaservice.New(list, nil, log, nil, nil)
	defer service.Close()
	guestOf(t, service, words, func(tools *exec.Cmd) { tools.ExtraFiles = inherited })
	if outcome := outcomeOf(t, service); !outcome.Succeeded() {
		t.Errorf("outcome %+v", outcome)
	}
	onlyStandard(t, "guest-tools", log.String(), secret)

	run := exec.Command(tool("metaservice"), append([]string{"run", "--"}, list...)...)
	run.ExtraFiles = inherited
	run.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	output, err := run.Output()
	if err != nil {
		t.Error(err)
	}
	onlyStandard(t, "metaservice run", string(output), secret)
}

// onlyStandard looks through a list of open files: the three of a task, and the one that lists them.
func onlyStandard(t *testing.T, who, list, secret string) {
	t.Helper()
	if !strings.Contains(list, "listed\n") || strings.Contains(list, secret) || strings.Count(list, " -> ") != 4 {
		t.Errorf("%s: the task has these files open:\n%s", who, list)
	}
}
