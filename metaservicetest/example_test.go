package metaservicetest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
)

// build is part of a worker: it runs a task, and prints what was built.
func build(ctx context.Context, engine metaservice.Engine) error {
	builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{
		Payload: []byte(`{"command": ["make"], "env": {"TARGET": "linux"}}`), Log: os.Stdout,
	})
	if err != nil {
		return err
	}
	sandbox, err := builder.StartSandbox(ctx)
	if err != nil {
		return err
	}
	result, err := sandbox.WaitForResult(ctx)
	if err != nil {
		return err
	}
	err = result.ExtractFolder(ctx, "out", func(name string, file io.ReadSeeker) error {
		content, err := io.ReadAll(file)
		fmt.Printf("%s: %s\n", name, content)
		return err
	})
	return errors.Join(err, result.Dispose())
}

// A worker's own test: the real engine, and a guest that does what the test says.
func Example() {
	machine := metaservicetest.NewMachine(metaservicetest.Run(
		func(_ context.Context, task metaservicetest.Task) int {
			fmt.Fprintln(task.Log, "compiling for", task.Env["TARGET"])
			task.Files.Set("out/app", "a program")
			return 0
		}))
	engine, err := metaservice.NewEngine(metaservice.Config{}, &metaservice.Environment{Machine: machine})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = build(context.Background(), engine)
	fmt.Println(errors.Join(err, engine.Dispose(context.Background())))
	// Output:
	// compiling for linux
	// app: a program
	// <nil>
}

// How the worker takes it that a machine dies in the middle of a task.
func ExampleScript() {
	machine := metaservicetest.NewMachine(func(_ context.Context, guest *metaservicetest.Guest) error {
		execute, err := guest.Execute()
		if err != nil {
			return err
		}
		if err := guest.Log("running " + execute.Command[0] + "\n"); err != nil {
			return err
		}
		return errors.New("the power failed")
	})
	engine, err := metaservice.NewEngine(metaservice.Config{}, &metaservice.Environment{Machine: machine})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(build(context.Background(), engine))
	fmt.Println(engine.Dispose(context.Background()))
	// Output:
	// running make
	// non-fatal internal error: machine-died: the guest's machine ended before the task did: the power failed
	// <nil>
}
