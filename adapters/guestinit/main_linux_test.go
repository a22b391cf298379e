package guestinit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The test's binary is everything: a stage that makes a root in namespaces of its own, then init there,
// and then what init starts in place of guest-tools.
func TestMain(m *testing.M) {
	switch {
	case Wanted():
		Main()
	case os.Getenv(stageVariable) != "":
		fmt.Fprintln(os.Stderr, "the stage:", stage())
		os.Exit(1)
	case len(os.Args) == 2 && os.Args[1] == "run":
		standIn()
	}
	os.Exit(m.Run())
}

// What the stage is told by its environment.
const (
	stageVariable   = "GUESTINIT_STAGE" // the folder for the root
	consoleVariable = "GUESTINIT_CONSOLE"
	lineVariable    = "GUESTINIT_CMDLINE"
	actsVariable    = "GUESTINIT_ACTS"
	modulesVariable = "GUESTINIT_MODULES"
)

// acts is the file that tells the stand-in of guest-tools what to do.
const acts = "/acts"

// stage makes a root and executes init in it. It is process 1 of its namespaces already.
func stage() error {
	root := os.Getenv(stageVariable)
	at := func(name string) string { return filepath.Join(root, name) }
	steps := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("tmpfs", root, "tmpfs", 0, "mode=0755") },
		func() error { return libraries(root) },
		func() error {
			for _, dir := range []string{"proc", "sys", "dev", "etc", "root", "lib/metaservice"} {
				if err := os.MkdirAll(at(dir), 0o755); err != nil {
					return err
				}
			}
			return nil
		},
		func() error { return unix.Mount("proc", at("proc"), "proc", 0, "") },
		func() error { return unix.Mount(os.Getenv(lineVariable), at("proc/cmdline"), "", unix.MS_BIND, "") },
		func() error { return unix.Mount("tmpfs", at("dev"), "tmpfs", 0, "mode=0755") },
		func() error { return os.WriteFile(at("dev/console"), nil, 0o600) },
		func() error { return unix.Mount(os.Getenv(consoleVariable), at("dev/console"), "", unix.MS_BIND, "") },
		func() error { return unix.Mknod(at("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		func() error { return os.WriteFile(at(acts), []byte(os.Getenv(actsVariable)), 0o644) },
		func() error {
			if list := os.Getenv(modulesVariable); list != "" {
				return os.WriteFile(at(modulesList), []byte(list), 0o644)
			}
			return nil
		},
		func() error { return copyFile("/proc/self/exe", at("guest-tools")) },
		func() error {
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth1"})
		},
		func() error { return unix.Chroot(root) },
		func() error { return os.Chdir("/") },
		func() error { return unix.Exec("/guest-tools", []string{"init"}, nil) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// libraries takes along what a test's binary is linked with: with the race detector it isn't static.
func libraries(root string) error {
	for _, dir := range []string{"/usr", "/lib", "/lib64", "/bin"} {
		target := filepath.Join(root, dir)
		if link, err := os.Readlink(dir); err == nil {
			if err := os.Symlink(link, target); err != nil {
				return err
			}
			continue
		}
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if dir == "/lib" { // we write below it
			return errors.New("/lib is no link: this needs a system whose /lib is in /usr")
		}
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		source := dir
		if dir == "/usr" { // and /lib is in it
			options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, filepath.Join(root, ".upper"), filepath.Join(root, ".work"))
			if err := errors.Join(os.Mkdir(filepath.Join(root, ".upper"), 0o755), os.Mkdir(filepath.Join(root, ".work"), 0o755)); err != nil {
				return err
			}
			if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
				return fmt.Errorf("overlay: %w", err)
			}
			continue
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// standIn is what init runs in place of guest-tools. It does what the file says, a word a line, and says
// on its standard output what came of it.
func standIn() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGTERM)
	text, err := os.ReadFile(acts)
	if err != nil {
		fmt.Println(err)
	}
	for act := range strings.FieldsSeq(string(text)) {
		switch act {
		case "look":
			look()
		case "orphan":
			orphan()
		case "stubborn":
			stubborn()
		case "exit":
			os.Exit(3)
		case "wait":
			fmt.Println("ready")
			fmt.Println("asked:", <-asked)
			os.Exit(0)
		case "stay":
			fmt.Println("ready")
			fmt.Println("asked:", <-asked)
			select {}
		case "crash":
			_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
		}
	}
}

// look tells what guest-tools find.
func look() {
	host, _ := os.Hostname()
	dir, _ := os.Getwd()
	fmt.Printf("parent %d, host %s, folder %s, PATH %s\n", os.Getppid(), host, dir, os.Getenv("PATH"))
	for _, name := range []string{"/sys", "/dev/pts", "/dev/shm", "/run", "/tmp", "/sys/fs/cgroup"} {
		fmt.Printf("%s mounted: %v\n", name, isMountPoint(name))
	}
	link, _ := netlink.LinkByName("lo")
	fmt.Println("lo:", link.Attrs().Flags&1 != 0)
	addresses, _ := netlink.AddrList(nil, netlink.FAMILY_ALL)
	for _, address := range addresses {
		fmt.Println("address:", address.IPNet, address.Label)
	}
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_ALL)
	for _, route := range routes {
		if route.Gw != nil {
			fmt.Println("gateway:", route.Gw)
		}
	}
	servers, _ := os.ReadFile("/etc/resolv.conf")
	fmt.Printf("servers: %q\n", servers)
	target, _ := os.Readlink("/dev/fd")
	fmt.Println("/dev/fd:", target)
	config := append([]string{}, os.Args[1:]...)
	fmt.Println("arguments:", config)
}

// orphan leaves processes behind that only init can reap, and looks whether the status of an own child
// still comes.
func orphan() {
	const orphans = 20
	for range orphans {
		if err := exec.Command("/bin/sh", "-c", "(exec sleep 0.05) & exit 0").Run(); err != nil {
			fmt.Println(err)
		}
	}
	for i := range orphans {
		err := exec.Command("/bin/sh", "-c", fmt.Sprintf("exit %d", i+1)).Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != i+1 {
			fmt.Println("an own child's status is", err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		left := childrenOfInit()
		if left == 1 { // ourselves
			fmt.Println("all orphans reaped")
			return
		}
		if time.Now().After(deadline) {
			fmt.Println("children of init left:", left)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stubborn leaves a process behind that doesn't end when it is asked to.
func stubborn() {
	cmd := exec.Command("/bin/sh", "-c", `trap "" TERM; echo stubborn; while :; do sleep 1; done`)
	told, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		fmt.Println("nothing stubborn was started")
		return
	}
	_, err = told.Read(make([]byte, 1)) // then its trap is set
	fmt.Println("left behind:", err)
}

func childrenOfInit() (count int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		stat, _ := os.ReadFile(name)
		if _, after, found := strings.Cut(string(stat), ") "); found {
			if fields := strings.Fields(after); len(fields) > 1 && fields[1] == "1" {
				count++
			}
		}
	}
	return count
}

// guest is an init under test.
type guest struct {
	t       *testing.T
	cmd     *exec.Cmd
	console string
}

type setup struct{ line, acts, modules string }

// boot starts an init in namespaces of its own.
func boot(t *testing.T, s setup) *guest {
	t.Helper()
	dir := t.TempDir()
	g := &guest{t: t, console: filepath.Join(dir, "console")}
	line, root := filepath.Join(dir, "cmdline"), filepath.Join(dir, "root")
	for name, text := range map[string]string{g.console: "", line: s.line} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	g.cmd = exec.Command("/proc/self/exe")
	g.cmd.Env = append(os.Environ(), stageVariable+"="+root, consoleVariable+"="+g.console, lineVariable+"="+line,
		actsVariable+"="+s.acts, modulesVariable+"="+s.modules)
	g.cmd.Stderr = os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := g.cmd.Start(); err != nil {
		if os.Getenv("CI") == "" && errors.Is(err, os.ErrPermission) {
			t.Skipf("no namespaces to be had: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { g.cmd.Process.Kill(); g.cmd.Wait() })
	return g
}

// end waits for init to end, and returns the signal by which a kernel tells of a namespace what its
// reboot(2) asked for.
func (g *guest) end() syscall.Signal {
	g.t.Helper()
	late := time.AfterFunc(time.Minute, func() { g.cmd.Process.Kill() })
	defer late.Stop()
	g.cmd.Wait()
	status, ok := g.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		g.t.Fatalf("init ended: %v; its console:\n%s", g.cmd.ProcessState, g.said())
	}
	return status.Signal()
}

func (g *guest) said() string {
	text, err := os.ReadFile(g.console)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(text)
}

// await waits until the console has a text.
func (g *guest) await(text string) {
	g.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(g.said(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("the console never had %q:\n%s", text, g.said())
		}
	}
}
