//go:build linux

package vm

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"go.uber.org/goleak"

	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/qemu"
	"github.com/hexworker/metaservice/adapters/vmimage"
)

// patience bounds every wait: a virtual machine without acceleration on a busy host is slow.
const patience = 3 * time.Minute

var (
	// image is what guests boot: the image that was found, with guest-tools of these sources.
	image vmimage.Image
	// missing is why no guest can be booted.
	missing error
)

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "metaservice-vm-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if len(os.Args) == 3 && os.Args[1] == hostCommand { // a host that is to be killed
		os.RemoveAll(folder)
		bootAndStay(os.Args[2])
	}
	image, missing = makeImage(folder)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		os.RemoveAll(folder)
		os.Exit(status)
	}))
}

// makeImage makes the image that the tests boot.
func makeImage(folder string) (vmimage.Image, error) {
	if _, err := exec.LookPath(qemu.DefaultProgram); err != nil {
		return vmimage.Image{}, fmt.Errorf("%w: install QEMU (Debian's packages qemu-system-x86 and qemu-utils)", err)
	}
	from, err := findImage()
	if err != nil {
		return vmimage.Image{}, err
	}
	tools := filepath.Join(folder, "guest-tools")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", tools, "github.com/hexworker/metaservice/cmd/guest-tools")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if output, err := build.CombinedOutput(); err != nil {
		return vmimage.Image{}, fmt.Errorf("%w\n%s", err, output)
	}
	initrd, err := os.ReadFile(from.InitrdFile())
	if err != nil {
		return vmimage.Image{}, err
	}
	files := map[string]string{"sbin/guest-tools": tools}
	if veth := findVeth(); veth != "" {
		files["veth.ko"] = veth
	}
	newer, err := archiveOf(files)
	if err != nil {
		return vmimage.Image{}, err
	}
	definition := from.Definition
	definition.Kernel, definition.Initrd = "vmlinuz", "initrd.img"
	if err := errors.Join(
		copyFile(filepath.Join(folder, "vmlinuz"), from.KernelFile()),
		os.WriteFile(filepath.Join(folder, "initrd.img"), append(initrd, newer...), 0o600),
		vmimage.Write(folder, definition),
	); err != nil {
		return vmimage.Image{}, err
	}
	return vmimage.Read(folder)
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// findImage finds the image that somebody made.
func findImage() (vmimage.Image, error) {
	if named := os.Getenv("METASERVICE_IMAGE"); named != "" {
		return vmimage.Read(named)
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		return vmimage.Image{}, err
	}
	found, err := vmimage.Read(filepath.Join(caches, "metaservice", "image"))
	if err != nil {
		return vmimage.Image{}, fmt.Errorf("%w; 'make image' makes one", err)
	}
	return found, nil
}

// findVeth finds the module for virtual Ethernet where 'make image' has taken an image's modules from;
// images don't have it, since a guest needs none.
func findVeth() string {
	caches, err := os.UserCacheDir()
	if err != nil || os.Getenv("METASERVICE_IMAGE") != "" { // which may have another kernel
		return ""
	}
	found, _ := filepath.Glob(filepath.Join(caches, "metaservice", "kit", "lib", "modules", "*", "kernel", "drivers", "net", "veth.ko"))
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// archiveOf is an initramfs with a few programs: the kernel lays it over what came before.
func archiveOf(files map[string]string) ([]byte, error) {
	var archive bytes.Buffer
	zip := gzip.NewWriter(&archive)
	w := cpio.NewWriter(zip)
	for name, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o755, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	err := errors.Join(w.Close(), zip.Close())
	return archive.Bytes(), err
}

// needVM ends a test that can't boot anything.
func needVM(t testing.TB) {
	t.Helper()
	switch {
	case missing == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("no guest can be booted: %v", missing)
	default:
		t.Skipf("no guest can be booted: %v", missing)
	}
}

var silence = slog.New(slog.DiscardHandler)

// serve is the hardened server.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	return httpserver.Serve(ctx, listener, handler, silence)
}

// newMachine makes a machine of the image; change says what is to be different.
func newMachine(t testing.TB, change ...func(*qemu.Config)) *qemu.Machine {
	t.Helper()
	needVM(t)
	config := qemu.Config{Image: image, Serve: serve, Folder: t.TempDir(), Console: consoleOf(t)}
	for _, c := range change {
		c(&config)
	}
	machine, err := qemu.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(config.Folder); err != nil || len(left) > 0 {
			t.Errorf("left in the machine's folder: %v, %v", left, err)
		}
		eventually(t, "QEMU is left", func() bool { return len(qemus(config.Image.Dir)) == 0 })
	})
	return machine
}

// consoleOf shows the guests' consoles if the test fails.
func consoleOf(t testing.TB) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) {
		console := new(console)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the console:\n%s", console)
			}
		})
		return console, nil
	}
}

// console keeps what a guest says.
type console struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *console) Close() error { return nil }

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// qemus are the processes that boot an image, by their command lines.
func qemus(folder string) []int {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []int
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		words := strings.Split(string(line), "\x00")
		if !strings.Contains(words[0], "qemu-system") || !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, folder+"/") }) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// awaitQEMU is the one that runs the guest of an image: it has been started, but may not have a command line yet.
func awaitQEMU(t testing.TB, folder string) (found []int) {
	t.Helper()
	eventually(t, "no QEMU runs, or too many", func() bool {
		found = qemus(folder)
		return len(found) == 1
	})
	return found
}

// eventually polls until something holds.
func eventually(t testing.TB, otherwise string, holds func() bool) {
	t.Helper()
	for over := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(over) {
			t.Fatal(otherwise)
		}
	}
}
