package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/domain"
)

// findings are what check has found out.
type findings struct {
	program  string // QEMU
	diskSize int64  // as the guest sees it; 0 is no disk
}

// check looks, before anything is started, at all that a guest needs.
func (m *Machine) check(ctx context.Context, wish wish) (found findings, err error) {
	found.program, err = findProgram(m.config.Program, "QEMU", "qemu-system-x86")
	if err != nil {
		return found, err
	}
	there, err := m.host.memory()
	if err != nil {
		return found, err
	}
	if wish.memory > there {
		return found, fmt.Errorf("the guest is to have %s of memory, and this host has %s: give it less",
			humanize.IBytes(uint64(wish.memory)), humanize.IBytes(uint64(there)))
	}
	image := m.config.Image
	for _, file := range []struct{ what, path string }{{"kernel", image.KernelFile()}, {"initramfs", image.InitrdFile()}, {"disk", image.DiskFile()}} {
		if file.path == "" {
			continue
		}
		if err := checkFile(file.path); err != nil {
			return found, fmt.Errorf("the guest's %s can't be used: %w", file.what, err)
		}
	}
	if image.Disk != "" {
		if found.diskSize, err = m.checkDisk(ctx); err != nil {
			return found, fmt.Errorf("the guest's disk %s can't be used: %w", domain.Quote(image.DiskFile()), err)
		}
		if info, err := os.Stat(m.config.Folder); err != nil || !info.IsDir() {
			return found, fmt.Errorf("what the guest writes to its disk can't be kept in %s: it must be a folder", domain.Quote(m.config.Folder))
		}
	}
	return found, nil
}

// imageProgram finds qemu-img.
func (m *Machine) imageProgram() (string, error) {
	return findProgram(m.config.ImageProgram, "qemu-img, which disks need,", "qemu-utils")
}

func findProgram(name, what, debian string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || errors.Is(err, exec.ErrDot) {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("%s can't be used: %w; install it (Debian has it in the package %s), or give the program's path", what, err, debian)
	}
	return path, nil
}

// checkFile tells why QEMU could not read a file.
func checkFile(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "read", Path: path, Err: errors.New("it is no regular file")}
	}
	if info.Size() == 0 {
		return &fs.PathError{Op: "read", Path: path, Err: errors.New("it is empty")}
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}

// diskInfo is what of qemu-img's information counts.
type diskInfo struct {
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual-size"`
	Backing     string `json:"backing-filename"`
	Specific    struct {
		Data struct {
			DataFile string `json:"data-file"`
		} `json:"data"`
	} `json:"format-specific"`
}

// disk is one that was found to be sound.
type disk struct {
	asOf string // its length and time
	size int64  // as the guest sees it
}

// checkDisk has qemu-img look at the disk, once for as long as it stays the same, and tells its size.
func (m *Machine) checkDisk(ctx context.Context) (size int64, err error) {
	image := m.config.Image
	stat, err := os.Stat(image.DiskFile())
	if err != nil {
		return 0, err
	}
	now := fmt.Sprint(stat.Size(), stat.ModTime().UnixNano())
	m.mu.Lock()
	known := m.sound
	m.mu.Unlock()
	if known.asOf == now {
		return known.size, nil
	}
	program, err := m.imageProgram()
	if err != nil {
		return 0, err
	}
	if size, err = lookAtDisk(ctx, program, image.DiskFile(), image.DiskFormat); err != nil {
		return 0, err
	}
	m.mu.Lock()
	m.sound = disk{asOf: now, size: size}
	m.mu.Unlock()
	return size, nil
}

// lookAtDisk finds what is wrong with a disk, and its size.
func lookAtDisk(ctx context.Context, program, disk string, format vmimage.DiskFormat) (int64, error) {
	text, err := runTool(ctx, program, nil, "info", "--output=json", "-f", string(format), disk)
	if err != nil {
		return 0, err
	}
	var info diskInfo
	if err := json.Unmarshal(text, &info); err != nil {
		return 0, fmt.Errorf("qemu-img can't be understood: %w", err)
	}
	if info.VirtualSize <= 0 {
		return 0, errors.New("there is no room on it")
	}
	if info.Backing != "" || info.Specific.Data.DataFile != "" {
		return 0, errors.New("it keeps a part of its data in another file; make it whole: qemu-img convert -O qcow2 OLD NEW")
	}
	if format == vmimage.FormatQCOW2 {
		if _, err := runTool(ctx, program, nil, "check", "-q", "-f", string(format), disk); err != nil {
			return 0, err
		}
	}
	return info.VirtualSize, nil
}

// runTool runs a program, which inherits the files, to its end, or ctx's. The error has what it said.
func runTool(ctx context.Context, program string, files []*os.File, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.ExtraFiles = []string{"LC_ALL=C"}, files
	cmd.WaitDelay = time.Second // for what it started that holds its outputs open
	var out, says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &says
	if err := runCommand(cmd); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s %s was ended: %w", filepath.Base(program), args[0], context.Cause(ctx))
		}
		said := strings.TrimSpace(says.String())
		if said == "" {
			said = strings.TrimSpace(out.String())
		}
		return nil, fmt.Errorf("%s %s says %s (%w)", filepath.Base(program), args[0], domain.Quote(said), err)
	}
	return out.Bytes(), nil
}
