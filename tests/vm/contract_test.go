//go:build linux

package vm

import (
	"encoding/json"
	"testing"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func TestMachine(t *testing.T) {
	needVM(t)
	contract.Machine(t, func(t *testing.T) ports.Machine { return newMachine(t) })
}

// newEngine makes an engine whose sandboxes are virtual machines.
func newEngine(t testing.TB, machine ports.Machine, most int) ports.Engine {
	t.Helper()
	engine, err := metaservice.NewEngine(metaservice.Config{
		MaxConcurrency: most, BootTimeout: metaservice.Duration(patience), TemporaryFolder: t.TempDir(),
	}, &metaservice.Environment{Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

func payloadOf(payload metaservice.Payload) []byte {
	text, err := json.Marshal(payload)
	if err != nil {
		panic(err) // of text
	}
	return text
}

// fetch is a command that prints what is at the path of the host's that is added to it.
var fetch = []string{"sh", "-c", `wget -q -O - "http://169.254.169.254$0"`}

// The engine keeps its contract on virtual machines as on all others.
func TestEngine(t *testing.T) {
	needVM(t)
	metaservicetest.EngineSuite(t, metaservicetest.EngineSetup{
		New: func(t *testing.T, options metaservicetest.EngineOptions) ports.Engine {
			return newEngine(t, newMachine(t), options.MaxConcurrency)
		},
		Payload: func(task metaservicetest.EngineTask) []byte {
			return payloadOf(metaservice.Payload{
				Command: task.Shell(fetch...), Env: task.SetEnv,
				Timeout: metaservice.Duration(task.Timeout), Artifacts: task.Artifacts,
			})
		},
		Fetches: true,
		Watch: func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
		},
	})
}
