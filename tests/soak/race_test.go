//go:build race

package soak

// raceDetector holds memory of its own for all that ever was.
const raceDetector = true
