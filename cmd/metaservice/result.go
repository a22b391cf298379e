package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// result is what --json writes. A null is what nobody knows.
type result struct {
	Status      domain.Status    `json:"status"`
	ExitCode    *int             `json:"exitCode"`
	Signal      *string          `json:"signal"`
	Reason      *domain.Reason   `json:"reason"`
	Message     *string          `json:"message"`
	Error       *string          `json:"error"`
	LogComplete bool             `json:"logComplete"`
	LogBytes    int64            `json:"logBytes"`
	LogCut      int64            `json:"logCut"`
	StartedAt   time.Time        `json:"startedAt"`
	DurationMs  int64            `json:"durationMs"`
	Artifacts   []artifactResult `json:"artifacts"`
}

type artifactResult struct {
	Path    string  `json:"path"`
	Target  string  `json:"target"`
	Kind    *string `json:"kind"`
	Files   int     `json:"files"`
	Bytes   int64   `json:"bytes"`
	Refused int     `json:"refused"`
	Error   *string `json:"error"`
}

func newResult(e ended) result {
	r := result{
		Status:      e.outcome.Status,
		Error:       message(errors.Join(e.reasons...)),
		LogComplete: e.outcome.Result != nil && e.outcome.Log.Complete() && e.logErr == nil,
		LogBytes:    e.outcome.Log.Bytes,
		LogCut:      e.outcome.Log.Cut,
		StartedAt:   e.begun.UTC(),
		DurationMs:  e.took.Milliseconds(),
		Artifacts:   make([]artifactResult, 0, len(e.artifacts)),
	}
	if report := e.outcome.Report(); report != nil {
		r.ExitCode, r.Signal, r.Reason, r.Message = &report.ExitCode, &report.Signal, &report.Reason, &report.Message
	}
	for _, f := range e.artifacts {
		r.Artifacts = append(r.Artifacts, artifactResult{
			Path: f.path, Target: absolute(f.target), Kind: known(f.kind),
			Files: f.Files, Bytes: f.Bytes, Refused: f.Refused, Error: message(f.Err),
		})
	}
	return r
}

func message(err error) *string {
	if err == nil {
		return nil
	}
	text := plain(err.Error())
	return &text
}

func known(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// checkResultFile tells whether a result can be put there: beside it, then in its place.
func checkResultFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("--json can't be written: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("--json can't be written: %q is no regular file, and would be replaced", path)
	}
	probe, err := beside(path)
	if err != nil {
		return fmt.Errorf("--json can't be written: its folder must be there and be writable: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// beside makes a temporary file in the folder of the file that path leads to.
func beside(path string) (*os.File, error) {
	return os.OpenFile(filepath.Join(filepath.Dir(led(path)), ".metaservice-"+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
}

// led is where path leads to by links: a link is not to be replaced by a file.
func led(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

// write puts the result in its place, whole or not at all.
func (r result) write(path string) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(r)
	if err == nil {
		err = replace(path, text.Bytes())
	}
	if err != nil {
		return fmt.Errorf("--json can't be written: %w", err)
	}
	return nil
}

func replace(path string, content []byte) error {
	file, err := beside(path)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), led(path))
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
