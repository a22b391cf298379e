package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hexworker/metaservice"
)

// fill leaves no room on a disk but so many bytes.
func fill(t *testing.T, disk string, but int64) string {
	t.Helper()
	name := filepath.Join(disk, "filler")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(file, io.LimitReader(zeros{}, int64(room(t, disk))-but))
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// An artifact that a full disk can't take is a clear error, nothing of it stays, and the next one that fits
// is taken.
func TestFullDiskOfArtifacts(t *testing.T) {
	if !withMounts(t) {
		return
	}
	for name, test := range map[string]struct {
		size string
		fill func(t *testing.T, disk string) (filler string)
		says string
	}{
		"no room":   {"1m", func(t *testing.T, disk string) string { return fill(t, disk, 100<<10) }, "DiskFree"},
		"no inodes": {"1m,nr_inodes=8", fillInodes, "no space left on device"},
	} {
		t.Run(name, func(t *testing.T) {
			leakless(t)
			disk := smallDisk(t, test.size)
			whole := room(t, disk)
			s := newScene(t, setting{limits: limits, storage: disk})
			s.works()
			filler := test.fill(t, disk)
			s.refuses(disk, test.says)
			if got := fetch(t.Context(), s.service, "small"); got.err != nil {
				t.Errorf("what needs no disk: %v", got.err)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			s.works()
			others, err := filepath.Glob(disk + "/filler*")
			for _, name := range others {
				err = errors.Join(err, os.Remove(name))
			}
			if err != nil {
				t.Fatal(err)
			}
			s.leave()
			if now := room(t, disk); now != whole {
				t.Errorf("I11: at first there was room for %d bytes, at last there is for %d", whole, now)
			}
		})
	}
}

// refuses sees that an artifact fails for want of a disk, once and for all, and that nothing of it stays.
func (s *scene) refuses(disk, says string) {
	s.Helper()
	left := room(s.T, disk)
	for range 3 {
		err := s.within(callTime, "Artifact", func(ctx context.Context) error { return fetch(ctx, s.service, "file").err })
		if !errors.Is(err, metaservice.ErrNonFatalInternalError) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "the host could not store it") {
			s.Errorf("an artifact for which there is no room: %v", err)
		}
		if err != nil && strings.Contains(err.Error(), "try 2") {
			s.Errorf("a full disk was tried again: %v", err)
		}
		if now := room(s.T, disk); now != left {
			s.Errorf("there was room for %d bytes, there is for %d", left, now)
		}
	}
}

// fillInodes leaves room for bytes, but for no file.
func fillInodes(t *testing.T, disk string) (last string) {
	t.Helper()
	for n := range 100 {
		name := filepath.Join(disk, fmt.Sprint("filler", n))
		file, err := os.Create(name)
		if err != nil {
			return last
		}
		file.Close()
		last = name
	}
	t.Fatal("there is no end of inodes")
	return ""
}

// command runs metaservice, and returns its exit status and what it says.
func command(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(tool(t, "metaservice"), args...)
	cmd.Dir = t.TempDir()
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), words.String()
}

// The command line's own files on a full disk: a clear error, the status for what isn't the task's fault,
// and no half file.
func TestFullDiskOfTheCommandLine(t *testing.T) {
	tool(t, "metaservice")
	if !withMounts(t) {
		return
	}
	const failure = 125
	disk := smallDisk(t, "256k")
	fill(t, disk, 0)
	result := filepath.Join(t.TempDir(), "result.json")
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"json":     {[]string{"run", "--json", disk + "/result.json", "--", "true"}, "--json can't be written"},
		"log":      {[]string{"run", "--log", disk + "/log", "--json", result, "--", "seq", "100000"}, "--log can't be written any more"},
		"artifact": {[]string{"run", "--artifact", "big=" + disk + "/big", "--", "sh", "-c", "seq 100000 >big"}, "was not fetched"},
		"folder":   {[]string{"run", "--artifact", "out=" + disk + "/out", "--", "sh", "-c", "mkdir out; seq 100000 >out/big"}, "artifact \"out\""},
	} {
		status, _, words := command(t, test.args...)
		if status != failure || !strings.Contains(words, test.says) || !(strings.Contains(words, "no space left on device") || strings.Contains(words, "DiskFree")) {
			t.Errorf("%s: status %d, and %q", name, status, words)
		}
	}
	var told struct {
		LogComplete bool
		Error       *string
	}
	text, err := os.ReadFile(result)
	if err = errors.Join(err, json.Unmarshal(text, &told)); err != nil || told.LogComplete || told.Error == nil || !strings.Contains(*told.Error, "no space left on device") {
		t.Errorf("the result tells %s, %v", text, err)
	}
	// The log's file is there, as far as it came; of the others nothing is, nor of what they were written to first.
	left, err := filepath.Glob(disk + "/*")
	hidden, err2 := filepath.Glob(disk + "/.*")
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(left, hidden...) {
		if base := filepath.Base(path); base != "filler" && base != "log" && base != "out" {
			t.Errorf("left is %s", path)
		}
	}
	if inside, err := os.ReadDir(disk + "/out"); err == nil && len(inside) > 0 {
		t.Errorf("left of the folder is %v", inside)
	}
}
