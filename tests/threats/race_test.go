//go:build race

package threats

// raceDetector tells whether processor time and memory say anything: with it both are many times as much.
const raceDetector = true
