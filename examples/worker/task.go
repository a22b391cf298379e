package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Task is a line of the input.
type Task struct {
	ID      string          `json:"id"`
	Payload json.RawMessage `json:"payload"`
}

var (
	// goodID and badID tell which id can be a folder's name: Windows keeps some names to itself, whatever
	// follows a dot in them, and drops dots at a name's end.
	goodID = regexp.MustCompile(`^[A-Za-z0-9_-]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?$`)
	badID  = regexp.MustCompile(`^(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)`)
)

// parse reads a line. Where it returns an error, the task has the id if that is known.
func parse(line []byte, seen *memory) (Task, error) {
	var task Task
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&task)
	if err == io.EOF {
		return Task{}, errors.New("the line is empty")
	}
	if err == nil {
		if _, more := decoder.Token(); more != io.EOF {
			return Task{}, errors.New("the line has more than one task")
		}
	}
	switch {
	case err != nil:
		return Task{ID: task.ID}, fmt.Errorf("the line is no task: %w", err)
	case !goodID.MatchString(task.ID):
		return task, errors.New("the id must have 1 to 100 letters, digits, '-', '_' and '.', and neither begin nor end with '.'")
	case badID.MatchString(task.ID):
		return task, errors.New("the id is a name that Windows keeps to itself")
	case !seen.add(task.ID):
		return task, errors.New("there was a task with this id before")
	}
	return task, nil
}

// remembered is how many ids a worker remembers.
const remembered = 100_000

// memory holds the last ids. Some systems take letters for the same whatever their case, and it does too:
// two tasks must not share a folder.
type memory struct {
	ids  map[string]bool
	ring []string
	next int
}

func newMemory(size int) *memory {
	return &memory{ids: make(map[string]bool), ring: make([]string, size)}
}

// add is false where the id is there already.
func (m *memory) add(id string) bool {
	id = strings.ToLower(id)
	if m.ids[id] {
		return false
	}
	delete(m.ids, m.ring[m.next])
	m.ids[id], m.ring[m.next] = true, id
	m.next = (m.next + 1) % len(m.ring)
	return true
}
