package main

import (
	"io"
	"os"
)

// stoppable reads a file. A read that has begun can't be stopped here, and ends with the process.
func stoppable(file *os.File) (input io.Reader, stop func()) { return file, func() {} }
