// Package metaservice lets a Go program run tasks in machines that it cannot log into.
//
// Nothing listens in the guest and nobody dials it: the guest's tools ask the host, at an address that
// no network routes (169.254.169.254), what to run; they stream the log out, report the result, and
// answer what the host asks for: a file, a folder, an end to the task. docs/protocol.md tells the
// protocol; guests that speak its first version, as images baked years ago do, are served as well.
//
// # The service on its own
//
// New makes the host's side for one guest and one task. It is an http.Handler, for any server; Serve
// is the server to use for a guest that is not to be trusted, and none is. Every body, list, queue and
// wait that the guest can reach has a limit (Limits), and every call returns within its context's end
// and a second, whatever the guest does.
//
// A result is explicit: a connection that ends is never a success. An artifact is whole or an error. A
// task whose log broke off is not a plain success (ErrLogIncomplete). Once it is resolved, a guest that
// reboots isn't handed the command again.
//
// ExecShell and Shell run a process beside the task, with its streams here, and a terminal if it wants one.
// An exit is the guest's own word: a shell whose connection ends without one is an error. An output that
// nobody reads stalls that shell alone.
//
// # The engine
//
// NewEngine makes an engine, NewProvider what a worker's registry wants, and Module is both for fx: it
// runs each task in a sandbox, boots a guest for it and releases it, without a word of the protocol.
//
//	engine, err := metaservice.NewEngine(metaservice.Config{MaxConcurrency: 4}, nil)
//	builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: payload, Log: os.Stdout})
//	sandbox, err := builder.StartSandbox(ctx)
//	result, err := sandbox.WaitForResult(ctx)
//	file, err := result.ExtractFile(ctx, "out/report.xml")
//
// An engine runs its guests on a Machine. Environment has none at first: then it is the process machine,
// which isolates nothing. Every sandbox ends with exactly one Outcome, and whatever was released is
// released once: by ResultSet.Dispose, by Sandbox.Abort, by the error that WaitForResult returns, or by
// Engine.Dispose. Package metaservicetest has guests for a worker's own tests; docs/engine.md has the
// config, the payload and the outcomes in tables.
//
// # What isn't here yet
//
// The virtual machine.
package metaservice
