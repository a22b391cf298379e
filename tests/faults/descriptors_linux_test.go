package faults

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
)

// A host that runs out of descriptors says so to whoever asks for a file, keeps the guest that it has, and
// works again once it has some.
func TestNoDescriptors(t *testing.T) {
	if isChild(t) {
		serveShort(t)
		return
	}
	leakless(t)
	host := childOf(t)
	host.Stderr = os.Stderr
	commands, err := host.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	words, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	defer host.Wait()
	defer host.Process.Kill()
	lines := bufio.NewScanner(words)
	hears := func(prefix string) string {
		t.Helper()
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), prefix+": "); ok {
				return rest
			}
		}
		t.Fatalf("the host ended before it said %s", prefix)
		return ""
	}
	address := hears("address")
	proxy, err := NewProxy(address)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	finish := make(chan struct{})
	m, err := (&world{proxy: proxy}).join(guestFolder(t), "boot", false, Programs{Task: task(finish, 0), Shell: chatter})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, err := range m.leave() {
			t.Error(err)
		}
	}()
	tell := func(command string) string {
		t.Helper()
		if _, err := fmt.Fprintln(commands, command); err != nil {
			t.Fatal(err)
		}
		return hears(command)
	}
	ask := func() string { return tell("file") }
	fine := fmt.Sprintf("%d bytes, <nil>", len(artifact))
	if got := ask(); got != fine {
		t.Fatalf("with descriptors: %s", got)
	}
	tell("hoard")
	eventually(t, "the host has descriptors left", func() bool {
		got := ask()
		told := strings.Contains(got, "too many open files") && strings.Contains(got, metaservice.ErrNonFatalInternalError.Error())
		// Or the guest has given a connection up, and gets no other.
		away := strings.Contains(got, domain.ErrNoPoll.Error()) || strings.Contains(got, context.DeadlineExceeded.Error())
		if got != fine && !told && !away {
			t.Fatalf("without descriptors: %s", got)
		}
		if got != fine {
			t.Logf("without descriptors: %s", got)
		}
		return got != fine
	})
	proxy.Sever() // the guest dials anew, and nobody can take it, but for the descriptors that this has freed
	tell("hoard")
	ask()
	tell("release")
	begun := time.Now()
	eventually(t, "the host doesn't recover", func() bool { return ask() == fine })
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s to recover", took)
	}
	close(finish)
	if got := tell("end"); got != "failed, nothing left" { // its log was severed
		t.Errorf("at its end the host says: %s", got)
	}
	if err := host.Wait(); err != nil {
		t.Errorf("the host: %v", err)
	}
}

// fewDescriptors is how many the host may have.
const fewDescriptors = 64

// serveShort is the host.
func serveShort(t *testing.T) {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: fewDescriptors, Max: fewDescriptors}); err != nil {
		t.Fatal(err)
	}
	before := openFiles()
	w, err := newWorld(setting{limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(w.storage)
	fmt.Printf("\naddress: %s\n", w.address)
	var hoard []*os.File
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		ctx, cancel := context.WithTimeout(t.Context(), hopeless)
		switch commands.Text() {
		case "hoard":
			file, err := os.Open(os.DevNull)
			for ; err == nil; file, err = os.Open(os.DevNull) {
				hoard = append(hoard, file)
			}
			fmt.Printf("hoard: %v\n", err)
		case "release":
			for _, file := range hoard {
				file.Close()
			}
			fmt.Println("release: done")
		case "file":
			got := fetch(ctx, w.service, "file")
			fmt.Printf("file: %d bytes, %v\n", len(got.content), got.err)
		case "end":
			outcome, err := w.service.Outcome(ctx)
			left := "nothing left"
			if wrong := w.close(); len(wrong) > 0 {
				left = fmt.Sprint(wrong)
			}
			if now := openFiles(); len(now) > len(before)+1 { // the runtime's poller is new
				left = fmt.Sprintf("files are left: %q, at first there were %q", now, before)
			}
			if err != nil {
				left = err.Error()
			}
			fmt.Printf("end: %s, %s\n", outcome.Status, left)
			cancel()
			return
		}
		cancel()
	}
}
