package endtoend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestTheProcessMachineHandsTokensOver(t *testing.T) {
	contract.MachineToken(t, func(t *testing.T) ports.Machine { return newMachine(t, openFolder(t), "") })
}

// asAttacker makes the test's program be a task that wants what is its guest-tools' own.
const (
	asAttacker    = "METASERVICE_TEST_ATTACK" // the address of its host
	whereToolsAsk = "where guest-tools ask"
)

func init() {
	if address := os.Getenv(asAttacker); address != "" {
		attack(address)
		os.Exit(0)
	}
}

// breach is a line of the attacker's that must not be there.
const breach = "BREACH"

// attack tries whatever a task may try, and tells what it got.
func attack(address string) {
	if address == whereToolsAsk {
		address = hostOfTools()
	}
	network, target := "tcp", address
	if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		network, target = "unix", path
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, target)
	}}, Timeout: 20 * time.Second}
	tries := 0
	ask := func(endPoint, token string) {
		tries++
		method, path, _ := strings.Cut(endPoint, " ")
		request, err := http.NewRequest(method, "http://169.254.169.254"+path, nil)
		if err != nil {
			panic(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := client.Do(request)
		if err != nil {
			if !errors.Is(err, fs.ErrPermission) {
				fmt.Println(breach, endPoint, err)
			}
			return
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		conflict := endPoint == "POST "+wire.PathToken && answer.StatusCode == http.StatusConflict
		if answer.StatusCode != http.StatusUnauthorized && !conflict {
			fmt.Println(breach, endPoint, answer.Status, string(body))
		}
	}
	for _, endPoint := range []string{
		"GET " + wire.PathExecute, "GET " + wire.PathPoll, "GET " + wire.PathPing, "POST " + wire.PathLog, "PUT " + wire.PathSuccess,
		"PUT " + wire.PathFailed, "POST " + wire.PathReply + "?id=1", "GET " + wire.PathReply + "?id=1", "POST " + wire.PathHello, "POST " + wire.PathToken,
	} {
		ask(endPoint, "")
		if endPoint != "POST "+wire.PathToken {
			ask(endPoint, strings.Repeat("A", 43))
		}
	}
	tries += readTools()
	fmt.Println("tried", tries, "as", os.Getuid())
}

// readTools tries to read what guest-tools hold: their files, their memory.
func readTools() (tries int) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic(err)
	}
	for _, proc := range processes {
		arguments, err := os.ReadFile(proc + "/cmdline")
		fields := strings.Split(string(arguments), "\x00")
		if err != nil || filepath.Base(fields[0]) != "guest-tools" || strings.Contains(string(arguments), "tree-shim") {
			continue
		}
		if parent := filepath.Base(proc); !above(parent) {
			continue // another test's
		}
		for _, path := range []string{proc + "/mem", proc + "/environ", proc + "/maps"} {
			tries++
			if file, err := os.Open(path); err == nil {
				if _, err := file.Read(make([]byte, 1)); err == nil || !errors.Is(err, syscall.EIO) {
					fmt.Println(breach, path, err)
				}
				file.Close()
			}
		}
		for i, field := range fields {
			if field == "--token-file" {
				tries++
				if text, err := os.ReadFile(fields[i+1]); err == nil {
					fmt.Println(breach, fields[i+1], string(text))
				}
			}
		}
	}
	return tries
}

// above tells whether a process is among those that this one came of.
func above(pid string) bool {
	for at := os.Getppid(); at > 1; {
		if strconv.Itoa(at) == pid {
			return true
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", at))
		_, rest, found := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if err != nil || !found || len(fields) < 2 {
			return false
		}
		if at, err = strconv.Atoi(fields[1]); err != nil {
			return false
		}
	}
	return false
}

// hostOfTools is where the guest-tools that this process came of find their host.
func hostOfTools() string {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range processes {
		arguments, err := os.ReadFile(proc + "/cmdline")
		if err != nil || !above(filepath.Base(proc)) {
			continue
		}
		for field := range strings.SplitSeq(string(arguments), "\x00") {
			if strings.HasPrefix(field, "unix:") {
				return field
			}
		}
	}
	return ""
}

// openFolder is a folder that every user can get through, with a path that leaves room for a socket's.
func openFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "open-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

// forAll is a copy of a program where other users may run it.
func forAll(t *testing.T, program string) string {
	t.Helper()
	folder := openFolder(t)
	content, err := os.ReadFile(program)
	copied := filepath.Join(folder, filepath.Base(program))
	if err = errors.Join(err, os.WriteFile(copied, content, 0o700), os.Chmod(copied, 0o755)); err != nil {
		t.Fatal(err)
	}
	return copied
}

func attacker(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run the task as another user")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return forAll(t, self)
}

// repelled checks what an attacker's task got.
func repelled(t *testing.T, log string, uid, tries int) {
	t.Helper()
	_, told, found := strings.Cut(log, "tried ")
	var tried, as int
	if _, err := fmt.Sscanf(told, "%d as %d", &tried, &as); !found || err != nil || tried < tries || as != uid {
		t.Errorf("it tried less than it should, or as somebody else")
	}
	if strings.Contains(log, breach) || t.Failed() {
		t.Errorf("the task says:\n%s", log)
	}
}

const nobody = 65534

// The task's user can't open the guest's socket, nor read the token or the memory of guest-tools.
func TestATaskOfAnotherUserGetsNothingOfTheProcessMachine(t *testing.T) {
	program := attacker(t)
	folder := openFolder(t)
	for _, mode := range []domain.TokenMode{domain.TokenAuto, domain.TokenRequired} {
		var log, words sink
		j := job(newMachine(t, folder, fmt.Sprintf("user: %q\nworkdir: /\n", "65534:65534")), &log, program)
		j.Execute.Env = map[string]string{asAttacker: whereToolsAsk, "GORACE": "atexit_sleep_ms=0"}
		j.Token, j.Logger = mode, slog.New(slog.NewTextHandler(&words, nil))
		task := start(t, j)
		if outcome := ended(t, task); outcome.Status != domain.StatusSuccess {
			t.Errorf("%s: the outcome is %v", mode, outcome)
		}
		repelled(t, log.String(), nobody, 20)
		if !strings.Contains(words.String(), "have shown their token") {
			t.Errorf("%s: the host's log says\n%s", mode, &words)
		}
	}
}

// Over TCP everybody in the guest reaches the host: there the token alone keeps them apart.
func TestATaskThatReachesItsHostGetsNothingWithoutTheToken(t *testing.T) {
	program := attacker(t)
	for name, toolsUser := range map[string]uint32{
		"guest-tools of root, and a task of another user":                                 0,
		"guest-tools that are nobody, and so is the task: only their memory is their own": nobody,
	} {
		t.Run(name, func(t *testing.T) {
			var log, words, hostWords sink
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := listener.Addr().String()
			service := metaservice.New([]string{program}, map[string]string{asAttacker: address, "GORACE": "atexit_sleep_ms=0"}, &log, nil,
				&metaservice.Environment{Logger: slog.New(slog.NewTextHandler(&hostWords, nil))}, metaservice.WithToken(metaservice.TokenRequired))
			defer service.Close()
			ctx, cancel := context.WithCancel(context.Background())
			served := make(chan error, 1)
			go func() { served <- service.Serve(ctx, listener) }()
			defer func() {
				cancel()
				if err := <-served; err != nil {
					t.Error(err)
				}
			}()
			config := filepath.Join(t.TempDir(), "config.yml")
			if err := os.WriteFile(config, []byte("workdir: /\nuser: \"65534:65534\"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"--host", address, "--config", config}
			if toolsUser != 0 {
				args = args[:2]
			}
			tools := exec.Command(forAll(t, tool("guest-tools")), args...)
			tools.Dir, tools.Stderr, tools.Env = "/", &words, []string{"PATH=" + os.Getenv("PATH")}
			tools.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: toolsUser, Gid: toolsUser}}
			if err := tools.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				tools.Process.Signal(syscall.SIGTERM)
				if err := tools.Wait(); err != nil {
					t.Errorf("guest-tools: %v\n%s", err, &words)
				}
			}()
			if outcome := outcomeOf(t, service); !outcome.Succeeded() {
				t.Errorf("the outcome is %v", outcome)
			}
			repelled(t, log.String(), nobody, 22)
			if got := fetch(t, service, "/proc/sys/kernel/ostype"); got != "Linux\n" {
				t.Errorf("a file of the guest is %q", got)
			}
			if told := hostWords.String(); !strings.Contains(told, "asked for again") || !strings.Contains(told, "does not show the token") {
				t.Errorf("the host was told\n%s", told)
			}
		})
	}
}
