package domain

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// Feature is an optional part of version 2, used only where guest and host both named it.
type Feature string

// The features that this version knows.
const (
	// FeatureResult lets a result carry a Report.
	FeatureResult Feature = "result"
	// FeatureTar is get-folder: all files of a folder in one archive.
	FeatureTar Feature = "tar"
	// FeatureExec lets an exec-shell carry all of a ShellSpec.
	FeatureExec Feature = "exec"
	// FeatureShell2 is the websocket subprotocol of shells with larger blocks and windows, and with an exit
	// report.
	FeatureShell2 Feature = "shell2"
	// FeatureToken lets the host demand of every request that it proves to be the guest's tools'.
	FeatureToken Feature = "token"
)

// Features is a set of them, in the order in which they were told.
type Features []Feature

// Has tells whether f is in the set.
func (fs Features) Has(f Feature) bool { return slices.Contains(fs, f) }

// Both is what is in fs and in other too, in the order of fs: what may be used.
func (fs Features) Both(other Features) Features {
	var both Features
	for _, f := range fs {
		if other.Has(f) && !both.Has(f) {
			both = append(both, f)
		}
	}
	return both
}

// Hello is what a guest of version 2 says of itself before all else, and again after each broken
// connection.
type Hello struct {
	Version  string   `json:"version"`
	BootID   string   `json:"bootId"`
	OS       string   `json:"os"`
	Arch     string   `json:"arch"`
	Features Features `json:"features"`
}

// ErrInvalidHello is a hello with fields that are missing or too long.
var ErrInvalidHello = errors.New("invalid hello")

const (
	maxHelloField    = 256
	maxHelloFeatures = 64
)

// Check bounds what a guest can make the host remember.
func (h Hello) Check() error {
	if h.BootID == "" {
		return fmt.Errorf("%w: bootId is missing; it must tell one boot of the guest from the next", ErrInvalidHello)
	}
	if len(h.Features) > maxHelloFeatures {
		return fmt.Errorf("%w: %d features, the most is %d", ErrInvalidHello, len(h.Features), maxHelloFeatures)
	}
	fields := []string{h.Version, h.BootID, h.OS, h.Arch}
	for _, f := range h.Features {
		fields = append(fields, string(f))
	}
	for _, field := range fields {
		if len(field) > maxHelloField {
			return fmt.Errorf("%w: a field of %d bytes, the most is %d", ErrInvalidHello, len(field), maxHelloField)
		}
	}
	return nil
}

// LogValue quotes what the guest said.
func (h Hello) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("version", Quote(h.Version)),
		slog.String("boot", Quote(h.BootID)),
		slog.String("platform", Quote(h.OS+"/"+h.Arch)),
		slog.String("features", Quote(fmt.Sprint(h.Features))),
	)
}
