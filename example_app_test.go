package metaservice_test

import (
	"context"
	"fmt"
	"os"

	"go.uber.org/fx"

	"github.com/hexworker/metaservice"
)

// An app with the module runs a task, and stops clean.
func Example_app() {
	ctx, engine := context.Background(), metaservice.Engine(nil)
	app := fx.New(fx.NopLogger, metaservice.Module, inProcess, fx.Populate(&engine)) // inProcess: a machine for tests
	fmt.Println("started:", app.Start(ctx))
	fmt.Println("run:", run(ctx, engine, `{"command": ["greet"], "env": {"WHO": "world"}, "timeout": "1m"}`))
	fmt.Println("stopped:", app.Stop(ctx))
	// Output:
	// started: <nil>
	// hello, world
	// success: true
	// run: <nil>
	// stopped: <nil>
}

func run(ctx context.Context, engine metaservice.Engine, payload string) error {
	builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(payload), Log: os.Stdout})
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
	fmt.Println("success:", result.Success())
	return result.Dispose()
}
