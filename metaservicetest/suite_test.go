package metaservicetest_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestEngine(t *testing.T) {
	metaservicetest.EngineSuite(t, metaservicetest.EngineSetup{
		New: func(t *testing.T, options metaservicetest.EngineOptions) ports.Engine {
			return newEngine(t, metaservicetest.Run(metaservicetest.Behave),
				metaservice.Config{MaxConcurrency: options.MaxConcurrency})
		},
		Payload: func(task metaservicetest.EngineTask) []byte { return payload(task, task.Command()) },
		Shell:   metaservicetest.ShellBehaviour.Command,
		Fetches: true,
		Watch: func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
		},
	})
}

// payload is a task in metaservice's JSON.
func payload(task metaservicetest.EngineTask, command []string) []byte {
	fields := map[string]any{"command": command}
	if task.SetEnv != nil {
		fields["env"] = task.SetEnv
	}
	if task.Timeout > 0 {
		fields["timeout"] = task.Timeout.String()
	}
	if task.Artifacts != nil {
		fields["artifacts"] = task.Artifacts
	}
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return text
}

func TestMachine(t *testing.T) {
	contract.Machine(t, func(*testing.T) ports.Machine {
		return metaservicetest.NewMachine(metaservicetest.Run(func(ctx context.Context, _ metaservicetest.Task) int {
			<-ctx.Done()
			return 1
		}))
	})
}

func TestMachineDeath(t *testing.T) {
	contract.MachineDeath(t, func(*testing.T) ports.Machine {
		return metaservicetest.NewMachine(func(_ context.Context, g *metaservicetest.Guest) error {
			_, err := g.Execute()
			return errors.Join(err, errors.New("the power failed"))
		})
	})
}
