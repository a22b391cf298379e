package metaservice_test

import (
	"context"
	"fmt"

	"go.uber.org/fx"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
)

// greeter is a machine whose guests are goroutines of this process, and greet.
var greeter = metaservicetest.NewMachine(metaservicetest.Run(func(_ context.Context, task metaservicetest.Task) int {
	fmt.Fprintf(task.Log, "hello, %s\n", task.Env["WHO"])
	return 0
}))

// inProcess gives it to an app. An app without a machine has the process machine.
var inProcess = fx.Provide(func() metaservice.Machine { return greeter })

// Without fx, whoever makes an engine disposes of it.
func ExampleNewEngine() {
	engine, err := metaservice.NewEngine(metaservice.Config{MaxConcurrency: 4}, &metaservice.Environment{Machine: greeter})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := run(ctx, engine, `{"command": ["greet"], "env": {"WHO": "you"}}`); err != nil {
		fmt.Println(err)
	}
	fmt.Println("disposed of:", engine.Dispose(ctx))
	// Output:
	// hello, you
	// success: true
	// disposed of: <nil>
}

// What is wrong with a payload is told all at once, for the task's author to read.
func ExampleMalformedPayloadError() {
	engine, err := metaservice.NewEngine(metaservice.Config{}, &metaservice.Environment{Machine: greeter})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Dispose(context.Background())
	_, err = engine.NewSandboxBuilder(metaservice.SandboxOptions{
		Payload: []byte(`{"command": ["make", 2], "env": {"A=B": ""}, "timeout": 90}`),
	})
	for _, mistake := range err.(*metaservice.MalformedPayloadError).Mistakes {
		fmt.Println(mistake)
	}
	// Output:
	// command[1] is a number, it must be a string
	// env["A=B"] is no name of a variable, it must be named without '=' and NUL characters, and not by nothing
	// timeout is a number, it must be a duration such as "90s" or "1h30m", not less than 0
}
