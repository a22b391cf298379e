package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/rootfolder"
)

// run runs one task to its end.
func (w *Worker) run(task Task) Result {
	result := Result{ID: task.ID, Status: failed}
	if err := w.runInto(task, &result); err != nil {
		result.Error = err.Error()
	}
	return result
}

func (w *Worker) runInto(task Task, result *Result) error {
	folder := filepath.Join(w.options.Folder, task.ID)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(folder, "log.txt"))
	if err != nil {
		return err
	}
	defer log.Close()
	builder, err := w.engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: task.Payload, Log: log})
	if err != nil {
		if _, malformed := errors.AsType[*metaservice.MalformedPayloadError](err); malformed {
			result.Status = rejected
		}
		return err
	}
	if err := builder.SetEnvironmentVariable("TASK_ID", task.ID); err != nil && !errors.Is(err, metaservice.ErrNamingConflict) {
		return errors.Join(err, builder.Discard())
	}
	sandbox, err := builder.StartSandbox(w.hurry)
	if err != nil {
		return err
	}
	defer context.AfterFunc(w.kill, func() { _ = sandbox.Kill() })() // too late is fine
	defer context.AfterFunc(w.hurry, func() { _ = sandbox.Abort() })()

	ended, err := sandbox.WaitForResult(context.Background())
	switch outcome, gone := errors.AsType[*metaservice.OutcomeError](err); {
	case gone:
		result.Status = outcome.Outcome.Status.String()
		return err
	case errors.Is(err, metaservice.ErrSandboxAborted):
		result.Status = metaservice.StatusAborted.String()
		return nil
	case err != nil:
		return err
	}
	outcome := ended.Outcome()
	result.Status = outcome.Status.String()
	if report := outcome.Report(); report != nil {
		result.ExitCode = &report.ExitCode
	}
	keptErr := w.keep(ended, builder.Artifacts(), folder, result)
	return errors.Join(outcome.Err, keptErr, ended.Dispose())
}

// keep brings the artifacts out.
func (w *Worker) keep(ended metaservice.ResultSet, paths []string, folder string, result *Result) error {
	if len(paths) == 0 {
		return nil
	}
	// What a guest calls its files must not lead out of the folder.
	root, err := rootfolder.Open(filepath.Join(folder, "artifacts"))
	if err != nil {
		return err
	}
	defer root.Close()
	k := &keeper{root: root, from: make(map[string]string)}
	named := make(map[string]bool)
	var errs []error
	for _, p := range paths {
		clean := path.Clean(filepath.ToSlash(p))
		if named[clean] {
			continue
		}
		named[clean] = true
		if err := k.keep(w.hurry, ended, clean); err != nil {
			errs = append(errs, fmt.Errorf("artifact %q: %w", p, err))
		}
	}
	slices.Sort(k.kept)
	result.Artifacts = k.kept
	return errors.Join(errs...)
}

// keeper writes artifacts. Different files of the guest can ask for one name here, like /out and out: the
// first has it.
type keeper struct {
	root *rootfolder.Folder

	mu   sync.Mutex // guards what follows
	kept []string
	from map[string]string // the guest's path for each name
}

// keep brings a folder out, or else a file, below its own path. A file of a folder whose name is taken
// does not keep the others from coming out.
func (k *keeper) keep(ctx context.Context, ended metaservice.ResultSet, from string) error {
	to := strings.TrimPrefix(path.Clean("/"+from), "/")
	var mu sync.Mutex // guards taken: files come at once
	var taken []error
	err := ended.ExtractFolder(ctx, from, func(name string, file io.ReadSeeker) error {
		err := k.write(path.Join(to, name), path.Join(from, name), file)
		if !errors.Is(err, errTaken) {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		taken = append(taken, err)
		return nil
	})
	if !errors.Is(err, metaservice.ErrResourceNotFound) {
		return errors.Join(append(taken, err)...)
	}
	file, err := ended.ExtractFile(ctx, from)
	if err != nil {
		return err
	}
	defer file.Close()
	return k.write(to, from, file)
}

var errTaken = errors.New("another artifact has this name")

// write writes a file, which appears once it is whole.
func (k *keeper) write(name, from string, content io.Reader) error {
	k.mu.Lock()
	first, there := k.from[name]
	if !there {
		k.from[name] = from
	}
	k.mu.Unlock()
	switch {
	case there && first == from: // by itself, and with its folder
		return nil
	case there:
		return fmt.Errorf("%w: artifacts/%s is %q", errTaken, name, first)
	}
	upload, err := k.root.File(name).Create(-1)
	if err != nil {
		return err
	}
	defer upload.Close()
	if _, err := io.Copy(upload, content); err != nil {
		return err
	}
	file, err := upload.Commit()
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.kept = append(k.kept, "artifacts/"+name)
	k.mu.Unlock()
	return file.Close()
}
