//go:build linux

package threats

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
)

func init() {
	register("too large", tooLarge)
	register("cuts", cuts)
}

// Threat 10. A FIFO held the ancestor for 90 s, and a device was read without end. The guest's own tools
// tell at once that there is no file; os.Root, by the way, stops neither of the two. (What a host does whose
// guest sends a device's bytes all the same is threat 11.)
func TestThreat10ArtifactIsNoFile(t *testing.T) {
	t.Parallel()
	tools := filepath.Join(t.TempDir(), "guest-tools")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", tools, "github.com/hexworker/metaservice/cmd/guest-tools")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	h := startHost(t, HostSpec{Network: "unix", Limits: metaservice.Limits{Tries: 1}})
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	socket, err := net.Listen("unix", filepath.Join(h.folder, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := errors.Join(
		os.WriteFile(at("file"), []byte("content"), 0o666),
		os.Symlink("file", at("link")),
		syscall.Mkfifo(at("FIFO"), 0o666),
		os.Symlink("FIFO", at("link to a FIFO")),
		os.Symlink("/dev/zero", at("link to a device")),
		os.Symlink("/dev/tty", at("link to a terminal")),
		os.Mkdir(at("folder"), 0o777),
		os.Symlink("folder", at("link to a folder")),
		os.Symlink("loop", at("loop")),
		os.Symlink("nothing", at("dangling link")),
	); err != nil {
		t.Fatal(err)
	}
	guest := exec.Command(tools, "run", "--host", "unix:"+h.guests[0])
	guest.Dir, guest.Stdout, guest.Stderr = folder, io.Discard, io.Discard
	guest.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	defer guest.Wait()
	defer guest.Process.Kill()
	is := func(path, content string) {
		t.Helper()
		if g := within(t, time.Minute, path, h.artifact(t, path)); g.failed() || string(g.Begin) != content {
			t.Errorf("%s: got %q, %q", path, g.Begin, g.Text)
		}
	}
	is(at("file"), "content")
	var longest time.Duration
	for _, path := range []string{at("FIFO"), at("link to a FIFO"), at("link to a device"), at("link to a terminal"), at("folder"),
		at("link to a folder"), at("loop"), at("dangling link"), "/dev/zero", "/dev/full", "/dev/tty", filepath.Join(h.folder, "socket"), at("file") + "/x", "/"} {
		g := within(t, time.Minute, path, h.artifact(t, path))
		longest = max(longest, g.Took)
		if !g.is(metaservice.ErrResourceNotFound) { // the one word of version 1
			t.Errorf("%s: got %d bytes, %q", path, g.Size, g.Text)
		}
		if g.Took > time.Second+slack {
			t.Errorf("%s: it took %s", path, g.Took)
		}
	}
	t.Logf("what is no file is told after %s at most", longest)
	is(at("link"), "content") // which a task may well leave
}

// tooLarge answers get-artifacts with more than the host takes, in a way that it is told, several at once,
// until it is told to stop.
func tooLarge(r *raid) error {
	many := make([]byte, 256<<10)
	pour := func(conn net.Conn, head string) {
		defer conn.Close()
		var pouring sync.WaitGroup
		pouring.Go(func() {
			_, err := io.WriteString(conn, head)
			for err == nil && !r.over() {
				if strings.HasSuffix(head, chunked) {
					_, err = conn.Write(fmt.Appendf(nil, "%x\r\n", len(many)))
				}
				if err == nil {
					_, err = conn.Write(many)
				}
				if err == nil && strings.HasSuffix(head, chunked) {
					_, err = io.WriteString(conn, "\r\n")
				}
			}
		})
		answer, err := readAnswer(bufio.NewReader(conn))
		if err == nil {
			r.count(fmt.Sprint(answer.status), 1)
		} else {
			r.count("no answer", 1) // it was lost with what the host has not read
		}
		pouring.Wait()
	}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		action, err := r.poll()
		if r.over() {
			return nil
		}
		if err != nil {
			return err
		}
		conn, err := r.dial()
		if err != nil {
			return err
		}
		head := reply(action.ID) + chunked
		if size := int64(r.number("size")); size > 0 {
			head = reply(action.ID) + sized(size)
		}
		all.Go(func() { pour(conn, head) })
	}
}

// Threat 11. An artifact without an end filled the disk at 513 MiB/s. One that is announced as too large is
// refused before a byte of it is stored; one that isn't ends at the limit. Neither leaves anything.
func TestThreat11DiskFill(t *testing.T) {
	t.Parallel()
	const (
		limit = 8 << 20
		most  = 4 // at once
	)
	for name, test := range map[string]struct {
		size   int64
		bytes  int64 // that the host may read
		stored int64 // that it may store
	}{
		// A header block, what net/http reads on so that its answer arrives, and a buffer or two.
		"announced":     {size: 1 << 40, bytes: 1 << 20, stored: 0},
		"just too much": {size: limit + 1, bytes: 1 << 20, stored: 0},
		"in chunks":     {bytes: limit + 2<<20, stored: limit + 1<<20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHost(t, HostSpec{Limits: metaservice.Limits{ArtifactBytes: limit}})
			a := attack(t, h, "too large", map[string]string{"size": fmt.Sprint(test.size)})
			before := h.usage(t)
			var all []<-chan Got
			for n := range most {
				all = append(all, h.artifact(t, fmt.Sprint("/", n)))
			}
			for _, got := range all {
				var stored Stored
				for waiting := true; waiting; {
					select {
					case g := <-got:
						waiting = false
						if g.Limit != "ArtifactBytes" || strings.Count(g.Text, "ArtifactBytes") != 1 {
							t.Errorf("the caller got %d bytes, %q", g.Size, g.Text)
						}
					case <-time.After(10 * time.Millisecond):
						h.call(t, "Stored", struct{}{}, &stored)
						if stored.Bytes > most*test.stored {
							t.Errorf("%d bytes are on disk, in %d files", stored.Bytes, stored.Files)
						}
					}
				}
			}
			read := h.usage(t).Read - before.Read
			t.Logf("%d KiB were read for each", read>>10/most)
			if read > most*test.bytes {
				t.Errorf("%d bytes were read, %d at most", read, most*test.bytes)
			}
			var stored Stored
			if h.call(t, "Stored", struct{}{}, &stored); stored.Files > 0 {
				t.Errorf("%d files are left", stored.Files)
			}
			tally := a.stop(t)
			if tally.Counts["413"]+tally.Counts["no answer"] != most {
				t.Errorf("the guest got %v", tally.Counts)
			}
		})
	}
	t.Run("a small disk", func(t *testing.T) {
		t.Parallel()
		const (
			disk  = 96
			free  = 32
			every = 16 // after which the host looks at its disk again
		)
		h := startHost(t, HostSpec{Disk: disk, Limits: metaservice.Limits{DiskFree: free << 20, Reply: 10 * time.Second}})
		for _, size := range []int64{0, (disk-free)<<20 + 1} {
			a := attack(t, h, "too large", map[string]string{"size": fmt.Sprint(size)})
			before := h.counts(t)
			g := within(t, time.Minute, "the caller", h.artifact(t, "/file"))
			read := h.counts(t).Read - before.Read
			t.Logf("%d KiB were read, %q", read>>10, g.Text)
			if !g.is(domain.ErrStorage) || strings.Count(g.Text, "DiskFree") != 1 {
				t.Errorf("the caller got %d bytes, %q", g.Size, g.Text)
			}
			most := int64(disk-free+every+2) << 20
			if size > 0 {
				most = 1 << 20
			}
			if read > most {
				t.Errorf("%d bytes were read, %d at most", read, most)
			}
			var stored Stored
			if h.call(t, "Stored", struct{}{}, &stored); stored.Files > 0 {
				t.Errorf("%d files are left", stored.Files)
			}
			a.stop(t)
		}
		good := attack(t, h, "good guest", nil)
		if g := within(t, time.Minute, "the caller", h.artifact(t, "/file")); string(g.Begin) != "content" {
			t.Errorf("then it got %q, %q", g.Begin, g.Text)
		}
		good.stop(t)
	})
}

// pattern is the content of the artifacts of threat 12.
var pattern = sync.OnceValue(func() []byte {
	random := rand.New(rand.NewPCG(12, 12))
	content := make([]byte, 100_000) // in memory first, and then in a file
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	return content
})

// Artifacts is how often to ask for a file that is pattern, and by how many at once.
type Artifacts struct{ Times, AtOnce int }

// Cuts is what became of that.
type Cuts struct {
	Whole, Broken int
	Short         []string // successes that are none
	Other         []string // errors of another kind
}

// Artifacts gets a file many times.
func (h *Host) Artifacts(ask Artifacts, cuts *Cuts) error {
	var mu sync.Mutex
	var next atomic.Int64
	var all sync.WaitGroup
	for range ask.AtOnce {
		all.Go(func() {
			for next.Add(1) <= int64(ask.Times) {
				var got Got
				err := h.Artifact(Ask{Path: "/pattern"}, &got)
				mu.Lock()
				switch {
				case err != nil:
					cuts.Other = append(cuts.Other, err.Error())
				case !got.failed() && got.Size == int64(len(pattern())) && bytes.HasPrefix(pattern(), got.Begin):
					cuts.Whole++
				case !got.failed():
					cuts.Short = append(cuts.Short, fmt.Sprintf("%d bytes", got.Size))
				case got.is(domain.ErrBrokenReply), got.is(domain.ErrNoReply), got.is(domain.ErrSlowReply):
					cuts.Broken++
				default:
					cuts.Other = append(cuts.Other, got.Text)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return nil
}

// cuts answers get-artifacts of pattern: every tenth whole, the others cut anywhere, in one of several ways,
// or with lies about their length. It does several at once.
func cuts(r *raid) error {
	var all sync.WaitGroup
	var turn atomic.Int64
	errs := make(chan error, r.number("at once"))
	for range r.number("at once") {
		all.Go(func() {
			for {
				action, err := r.poll()
				if r.over() {
					return
				}
				if err == nil {
					err = r.cut(action.ID, int(turn.Add(1)))
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func (r *raid) cut(id string, n int) error {
	conn, err := r.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	content := pattern()
	random := rand.New(rand.NewPCG(uint64(n), 12))
	head, body := reply(id)+sized(int64(len(content))), content
	switch n % 4 {
	case 0, 1:
		head, body = reply(id)+chunked, nil
		for chunk := range slices.Chunk(content, 1000+random.IntN(30_000)) {
			body = fmt.Appendf(body, "%x\r\n%s\r\n", len(chunk), chunk)
		}
		body = append(body, "0\r\n\r\n"...)
	}
	request := append([]byte(head), body...)
	if n%10 == 0 {
		r.count("whole", 1)
		conn.Write(request)
		answer, err := readAnswer(bufio.NewReader(conn))
		r.count(fmt.Sprint("whole ", answer.status), 1)
		return err
	}
	r.count("cut", 1)
	cut := len(head) + random.IntN(len(body)) // the host knows that it is being answered
	if _, err := conn.Write(request[:cut]); err != nil {
		return nil // it has hung up, as it may
	}
	switch n % 5 {
	case 0:
		conn.(*net.TCPConn).SetLinger(0) // a reset
	case 1:
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
	case 2: // what is no chunk where one begins, and else just content
		fmt.Fprint(conn, "\r\nzz\r\n")
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
	}
	return nil
}

// Threat 12. A guest that dies, or lies about its length, must never leave half a file that is called whole.
func TestThreat12LyingContentLength(t *testing.T) {
	t.Parallel()
	const atOnce = 4
	times := often(200, 1000)
	h := startHost(t, HostSpec{Limits: metaservice.Limits{Tries: 1, Stall: 5 * time.Second, Reply: 5 * time.Second}})
	a := attack(t, h, "cuts", map[string]string{"at once": fmt.Sprint(atOnce)})
	c := within(t, patience(), "the artifacts", begin[Cuts](t, h, "Artifacts", Artifacts{Times: times, AtOnce: atOnce}))
	tally := a.stop(t)
	t.Logf("of %d artifacts %d came whole and %d broke off; the guest sent %v", times, c.Whole, c.Broken, tally.Counts)
	if len(c.Short) > 0 || len(c.Other) > 0 {
		t.Errorf("short files as success: %q; other errors: %q", c.Short, c.Other)
	}
	whole := int(tally.Counts["whole"])
	if c.Whole != whole || c.Broken != times-whole || int(tally.Counts["whole 200"]) != whole {
		t.Errorf("%d came whole and %d broke off, the guest sent %v", c.Whole, c.Broken, tally.Counts)
	}
}
