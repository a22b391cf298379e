//go:build linux

package endtoend

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice/tests/contract"
)

// A large artifact arrives whole, and the host's memory doesn't grow with it.
func TestALargeArtifactNeedsLittleMemory(t *testing.T) {
	size := int64(512 << 20)
	if *contract.Long {
		size = 5 << 30
	}
	folder := t.TempDir()
	target := filepath.Join(folder, "artifact")
	command := exec.Command(tool("metaservice"), "run", "--artifact", "sparse="+target, "--",
		"sh", "-c", fmt.Sprintf("truncate -s %d sparse; printf end >>sparse", size-3))
	command.Env = append(os.Environ(), "TMPDIR="+folder)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	memory := make(chan int64, 1)
	go func() { memory <- mostMemory(command.Process.Pid) }()
	if err := command.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &output)
	}
	file, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || info.Size() != size {
		t.Fatalf("the artifact has %d bytes, %v, want %d", info.Size(), err, size)
	}
	tail := make([]byte, 3)
	if _, err := file.ReadAt(tail, size-3); err != nil || string(tail) != "end" {
		t.Errorf("it ends with %q, %v", tail, err)
	}
	most := <-memory
	t.Logf("%d MiB came; the host's memory was %d MiB at most", size>>20, most>>10)
	if most == 0 || most > 64<<10 {
		t.Errorf("the host's memory grew to %d KiB", most)
	}
}

// mostMemory is the most memory in KiB that a process has had when it ends. What wait4 tells is no less than
// what its parent had when it was made: Linux counts a child from before its exec.
func mostMemory(pid int) (most int64) {
	for ; ; time.Sleep(5 * time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return most
		}
		_, after, found := strings.Cut(string(status), "VmHWM:")
		if !found { // it has ended, and wasn't waited for
			return most
		}
		if now, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64); err == nil {
			most = max(most, now)
		}
	}
}

func TestAFolderOf100000FilesIsListed(t *testing.T) {
	const files = 100_000
	folder := t.TempDir()
	task := start(t, job(newMachine(t, folder, ""), &sink{}, "true"))
	if outcome := ended(t, task); !outcome.Succeeded() {
		t.Fatalf("%+v", outcome)
	}
	root := filepath.Join(t.TempDir(), "root")
	for i := range files {
		sub := filepath.Join(root, strconv.Itoa(i/1000))
		if i%1000 == 0 {
			if err := os.MkdirAll(sub, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listing, err := task.Service().List(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, file := range listing.Files {
		if !strings.HasPrefix(file.Path, root+"/") || file.Path != root+"/"+file.Relative {
			t.Fatalf("listed %+v", file)
		}
		seen[file.Relative] = true
	}
	if len(seen) != files || len(listing.Files) != files || listing.Refused != 0 {
		t.Errorf("%d files listed, %d different, %d refused", len(listing.Files), len(seen), listing.Refused)
	}
}
