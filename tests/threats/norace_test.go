//go:build !race

package threats

const raceDetector = false
