//go:build !linux

package processes

import (
	"os"
)

// outputPipe is a pipe that a tree writes to.
func outputPipe() (*output, *os.File, error) {
	ours, childs, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := newOutput(ours)
	return out, childs, err
}

// inputPipe is a pipe that a tree reads from.
func inputPipe() (*input, *os.File, error) {
	childs, ours, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return newInput(ours), childs, nil
}
