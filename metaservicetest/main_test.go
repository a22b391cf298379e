package metaservicetest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
	"github.com/hexworker/metaservice/ports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newEngine is the real engine on guests that play script.
func newEngine(t *testing.T, script metaservicetest.Script, config metaservice.Config) ports.Engine {
	t.Helper()
	engine, err := metaservice.NewEngine(config, &metaservice.Environment{Machine: metaservicetest.NewMachine(script)})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}
