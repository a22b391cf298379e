// Package processes starts commands and holds all that comes of them: a tree, whose members can't leave
// it by changing their process group or session, or by outliving their parent.
//
// On Linux there are two ways to hold one.
//
//   - A cgroup of version 2, wherever one can be made below our own. It needs no controller, so a
//     hierarchy that serves only for this (a hybrid one's "unified") will do. The command is born in
//     it; it is frozen and killed by the kernel; it is removed when the process is closed. If we are
//     killed ourselves, what runs in it lives on until one of us who is in the same cgroup as we were starts
//     the next tree: that ends it.
//   - A shim, one for each tree: this program run again under the command line in Config.Shim, which
//     calls ShimMain. It is the command's parent and the reaper of every orphan in the tree, so that all of
//     the tree is below it in /proc. Its lifeline is a socket to us: when that closes, because
//     we were killed, it ends the tree within ShimGrace. A tree that runs as the same user as the shim can
//     kill the shim; then what can still be found of the tree is killed, and the report says so.
//
// Neither holds a root's process that sets out to escape: root may write itself into another cgroup, or
// kill whatever it likes. That takes a machine of its own.
//
// A shell has its streams here: three pipes, or a terminal that is its controlling one. That terminal
// does what terminals do: it hangs up on the foreground's processes when the command ends, and on all of
// the command's session when its input is closed.
//
// On other Unix systems a tree is the command's process group, which children can leave. On Windows it
// is a job object, there is no terminal, and nothing can be asked to end: it is ended. The code for
// these two builds, and has never been run.
//
// A command without a slash in its name is looked up on the PATH of its own environment, or where that
// has none, on DefaultPath. A user may be a name, a uid (its group is the one that the user database
// has for it, else the number of the uid) or uid:gid; numbers need no user database.
package processes
