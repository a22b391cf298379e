package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
)

// record is where the task's log goes: to standard output, and to a file where there is one. The file
// is then what counts: the log goes on without a standard output that was closed. What counts fails
// once, and closes failed.
type record struct {
	out    io.Writer
	words  *slog.Logger
	failed chan struct{}
	file   *os.File // nil without --log
	held   *held    // nil where nothing is held back

	mu   sync.Mutex // guards what follows
	gone bool       // standard output is
	err  error      // the first of what counts
}

// newRecord opens the file, which loses what it held; an empty path is none.
func newRecord(out io.Writer, path string, words *slog.Logger) (*record, error) {
	r := &record{out: out, words: words, failed: make(chan struct{})}
	if path == "" {
		return r, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, fmt.Errorf("--log can't be written: its folder must be there, and the file be writable: %w", err)
	}
	r.file = file
	return r, nil
}

// Write implements ports.LogSink.
func (r *record) Write(p []byte) (int, error) {
	n, err := len(p), error(nil)
	if r.file != nil {
		if n, err = r.file.Write(p); err != nil {
			r.fail(fmt.Errorf("--log can't be written any more: %w", err))
		}
	}
	r.mu.Lock()
	gone := r.gone
	r.mu.Unlock()
	if gone {
		return n, err
	}
	shown, outErr := r.out.Write(p) // may block for as long as nobody reads it
	if outErr != nil {
		r.lose(outErr)
		if r.file == nil {
			return shown, outErr
		}
	}
	return n, err
}

// lose notes that standard output can't be written any more.
func (r *record) lose(err error) {
	r.mu.Lock()
	r.gone = true
	r.mu.Unlock()
	if r.file == nil {
		r.fail(fmt.Errorf("standard output can't be written any more: %w", err))
		return
	}
	r.words.Warn("standard output can't be written any more, the log goes on in the file of --log", "error", err)
}

// hold keeps the log from standard output, which a shell needs, until release.
func (r *record) hold() {
	r.held = &held{to: r.out}
	r.out = r.held
}

// release shows what was held back, and then the log as it comes.
func (r *record) release() {
	if err := r.held.release(); err != nil {
		r.lose(err)
	}
}

func (r *record) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.failed)
	}
}

// close ends the record, and returns what kept it from being whole.
func (r *record) close() error {
	if r.file != nil {
		if err := r.file.Close(); err != nil { // some file systems tell only now that there is no room
			r.fail(fmt.Errorf("--log can't be written any more: %w", err))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
