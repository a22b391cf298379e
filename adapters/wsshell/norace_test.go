//go:build !race

package wsshell_test

// raceDetector tells that everything takes several times as long.
const raceDetector = false
