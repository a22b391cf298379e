// Package processmachine is a machine that is none: it runs guest-tools as a child of the host, and so
// the task as its grandchild. IT ISOLATES NOTHING. The task runs as the host's own user, sees the
// host's files, processes and network, and can do whatever that user can. It is for development and
// tests, and for tasks that are trusted as much as whoever starts the host.
//
// Guest-tools of root can run the task as another user (Config.Owner); that user can't open the socket,
// nor read the token by which the host knows guest-tools, and sees of the host what any user sees. A task
// of their own user can do both. A disk that is full is the task's to notice: its writes fail, and nothing
// is said beside.
//
// What it keeps apart is what a clean start needs. The guest talks to its host over a unix socket, and
// has a folder that is its alone, with a working folder (its HOME) and one for temporary files. Its
// environment is a few harmless variables of the host's, so that secrets in the others don't reach it
// by accident; a task that looks for them finds them in /proc.
//
// All that comes of guest-tools ends with Stop, or when guest-tools end. If the host itself is killed,
// that is the business of the ports.Processes given: with a shim's lifeline all of it ends too. The
// folder is left behind then.
package processmachine
