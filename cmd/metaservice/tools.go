package main

import (
	"errors"
	"fmt"

	"github.com/hexworker/metaservice/adapters/processmachine"
)

// findTools finds the guest's tools: where --guest-tools says, else beside metaservice itself, else on
// the PATH.
func findTools(given string) (string, error) {
	found, err := processmachine.FindTools(given)
	switch {
	case err == nil:
		return found, nil
	case errors.Is(err, processmachine.ErrNoTools):
		return "", errors.New("guest-tools, which run the task, are neither beside metaservice nor on the PATH: " +
			"put them there, or name them with --guest-tools FILE; 'make build' builds both")
	}
	return "", fmt.Errorf("--guest-tools can't be used: %w; 'make build' builds them", err)
}
