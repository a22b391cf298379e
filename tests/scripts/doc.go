// Package scripts drives both real programs, metaservice and guest-tools, as an operator would: each
// file in testdata is a script of commands and of what must come of them. Whatever a script does, it
// must leave no process and no temporary file behind.
package scripts
