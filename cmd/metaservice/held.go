package main

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// held keeps what is written to it in a file, until it may go on to where it belongs.
type held struct {
	to io.Writer

	mu   sync.Mutex // guards what follows, and is held for whole writes: what was kept goes first
	free bool       // nothing is kept any more
	file *os.File   // nil while there is nothing to keep
}

// Write implements io.Writer.
func (h *held) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.free {
		return h.to.Write(p)
	}
	if h.file == nil {
		file, err := os.CreateTemp("", "metaservice-log-*")
		if err != nil {
			return 0, fmt.Errorf("the log can't be held back for the shell: %w", err)
		}
		_ = os.Remove(file.Name()) // where that works, nothing is left behind even if we are killed
		h.file = file
	}
	n, err := h.file.Write(p)
	if err != nil {
		err = fmt.Errorf("the log can't be held back for the shell: %w", err)
	}
	return n, err
}

// release passes on what was kept, and from then on all that is written.
func (h *held) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.free = true
	if h.file == nil {
		return nil
	}
	defer os.Remove(h.file.Name()) // where an open file can't be
	defer h.file.Close()
	if _, err := h.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(h.to, h.file)
	return err
}
