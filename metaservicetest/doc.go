// Package metaservicetest is for testing what is built on metaservice, as net/http/httptest is for HTTP:
// guests that are goroutines of the test's own process, and the contract that every engine keeps.
//
// # A worker's own test
//
// A worker drives a ports.Engine. Its test gives the real engine a Machine of this package: no
// guest-tools, no processes and no sockets, but the real protocol and everything above it. Run plays a
// guest as it should be, and the test says what its command does:
//
//	machine := metaservicetest.NewMachine(metaservicetest.Run(
//		func(ctx context.Context, task metaservicetest.Task) int {
//			fmt.Fprintln(task.Log, "compiling for", task.Env["TARGET"])
//			task.Files.Set("out/app", "ELF…")
//			return 0
//		}))
//
// The shells that the worker opens beside the task are played by what the command gives to ServeShells:
//
//	task.Guest.ServeShells(func(ctx context.Context, shell metaservicetest.Shell) int {
//		io.Copy(shell.Stdout, shell.Stdin)
//		return 0
//	})
//
// A guest that isn't as it should be is a Script of one's own: one that never calls, that dies midway
// (return an error), that breaks its log off (Log.Break) or a shell (Guest.OpenShell), that answers with
// nonsense (Guest.Reply).
//
// Nothing here waits for real time or does I/O, so tests may run in a testing/synctest bubble, where a
// guest that stays silent for minutes takes none.
//
// # The contract of an engine
//
// EngineSuite holds any ports.Engine to what ports says of it. It tells its tasks as a Behaviour, which
// each engine's guest can be made to show: by Behave in a guest of this package, by Behaviour.Shell where
// the guest has a shell. So it is with shells, and ShellBehaviour.
package metaservicetest
