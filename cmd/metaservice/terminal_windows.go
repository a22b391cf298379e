package main

import "os"

// resizes never tells anything: Windows has no signal for it.
func resizes() (resized <-chan os.Signal, ignore func()) { return nil, func() {} }
