package main

import "golang.org/x/sys/unix"

// keepSecrets keeps other processes of the same user from reading this one's memory, which holds the token
// and the task's variables, and the kernel from writing it to a core file. Root may still; and what is
// started by this one isn't bound by it.
func keepSecrets() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
