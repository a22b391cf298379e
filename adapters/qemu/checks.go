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

	"github.com/dustin/go-humanize"

	"github.com/hexworker/metaservice/adapters/vmimage"
	"github.com/hexworker/metaservice/domain"
)

// check looks, before anything is started, at all that a guest needs, and finds the program.
func (m *Machine) check(ctx context.Context, wish wish) (program string, err error) {
	program, err = findProgram(m.config.Program, "QEMU", "qemu-system-x86")
	if err != nil {
		return "", err
	}
	there, err := m.host.memory()
	if err != nil {
		return "", err
	}
	if wish.memory > there {
		return "", fmt.Errorf("the guest is to have %s of memory, and this host has %s: give it less",
			humanize.IBytes(uint64(wish.memory)), humanize.IBytes(uint64(there)))
	}
	image := m.config.Image
	for _, file := range []struct{ what, path string }{{"kernel", image.KernelFile()}, {"initramfs", image.InitrdFile()}, {"disk", image.DiskFile()}} {
		if file.path == "" {
			continue
		}
		if err := checkFile(file.path); err != nil {
			return "", fmt.Errorf("the guest's %s can't be used: %w", file.what, err)
		}
	}
	if image.Disk != "" {
		if err := m.checkDisk(ctx); err != nil {
			return "", fmt.Errorf("the guest's disk %s can't be used: %w", domain.Quote(image.DiskFile()), err)
		}
		if info, err := os.Stat(m.config.Folder); err != nil || !info.IsDir() {
			return "", fmt.Errorf("what the guest writes to its disk can't be kept in %s: it must be a folder", domain.Quote(m.config.Folder))
		}
	}
	return program, nil
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

// checkDisk has qemu-img look at the disk, once for as long as it stays the same.
func (m *Machine) checkDisk(ctx context.Context) error {
	disk, format := m.config.Image.DiskFile(), m.config.Image.DiskFormat
	stat, err := os.Stat(disk)
	if err != nil {
		return err
	}
	now := fmt.Sprint(stat.Size(), stat.ModTime().UnixNano())
	m.mu.Lock()
	known := m.sound == now
	m.mu.Unlock()
	if known {
		return nil
	}
	program, err := findProgram(m.config.ImageProgram, "qemu-img, which disks need,", "qemu-utils")
	if err != nil {
		return err
	}
	text, err := runTool(ctx, program, "info", "--output=json", "-f", string(format), disk)
	if err != nil {
		return err
	}
	var info diskInfo
	if err := json.Unmarshal(text, &info); err != nil {
		return fmt.Errorf("qemu-img can't be understood: %w", err)
	}
	if info.Backing != "" || info.Specific.Data.DataFile != "" {
		return errors.New("it keeps a part of its data in another file; make it whole: qemu-img convert -O qcow2 OLD NEW")
	}
	if format == vmimage.FormatQCOW2 {
		if _, err := runTool(ctx, program, "check", "-q", "-f", string(format), disk); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.sound = now
	m.mu.Unlock()
	return nil
}

// runTool runs a program to its end. The error has what it said.
func runTool(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"LC_ALL=C"}
	var out, says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &says
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		said := strings.TrimSpace(says.String())
		if said == "" {
			said = strings.TrimSpace(out.String())
		}
		return nil, fmt.Errorf("%s %s says %s (%w)", filepath.Base(program), args[0], domain.Quote(said), err)
	}
	return out.Bytes(), nil
}
