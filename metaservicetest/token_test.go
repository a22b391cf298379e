package metaservicetest_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/metaservicetest"
	"github.com/hexworker/metaservice/ports"
)

// asTheTask makes a request as something in the guest does that isn't its tools, and returns the status.
func asTheTask(g *metaservicetest.Guest, method, path string) (int, error) {
	req, err := http.NewRequest(method, "http://host"+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header[wire.HeaderAuthorization] = nil
	answer, err := g.Client().Do(req)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}

// without is a machine that can do no more than boot.
type without struct{ ports.Machine }

func TestTokens(t *testing.T) {
	every := domain.Features{domain.FeatureResult, domain.FeatureToken}
	for name, test := range map[string]struct {
		mode     metaservice.TokenMode
		bare     bool // the machine hands none over
		features domain.Features
		offers   bool // the host, the feature
		before   int  // what the task gets for an execute before the tools' hello
		after    int
		asks     int // what it gets for the token
	}{
		"auto":                     {"", false, every, true, 200, 401, 404},
		"auto, by older tools":     {"", false, domain.Features{domain.FeatureResult}, true, 200, 200, 404},
		"auto, which nobody hands": {"", true, every, false, 200, 200, 404},
		"required":                 {metaservice.TokenRequired, false, every, true, 401, 401, 404},
		"required, over the wire":  {metaservice.TokenRequired, true, every, true, 401, 401, 409},
		"off":                      {metaservice.TokenOff, false, every, false, 200, 200, 404},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				script := func(_ context.Context, g *metaservicetest.Guest) error {
					expect := func(want int, method, path string) error {
						if status, err := asTheTask(g, method, path); status != want || err != nil {
							return fmt.Errorf("the task gets %d for %s, %v; want %d", status, path, err, want)
						}
						return nil
					}
					if err := expect(test.before, "GET", wire.PathExecute); err != nil {
						return err
					}
					offered, err := g.Hello(test.features...)
					if err != nil {
						return err
					}
					if offered.Has(domain.FeatureToken) != test.offers {
						return fmt.Errorf("the host offers %v", offered)
					}
					if _, err := g.Execute(); err != nil {
						return err
					}
					for path, method := range map[string]string{wire.PathExecute: "GET", wire.PathPing: "GET", wire.PathLog: "POST"} {
						if err := expect(test.after, method, path); err != nil {
							return err
						}
					}
					if err := expect(test.asks, "POST", wire.PathToken); err != nil {
						return err
					}
					if test.after == 401 {
						if err := expect(401, "PUT", wire.PathFailed); err != nil {
							return err
						}
					}
					return g.Succeed()
				}
				var machine ports.Machine = metaservicetest.NewMachine(script)
				if test.bare {
					machine = without{machine}
				}
				engine, err := metaservice.NewEngine(metaservice.Config{TemporaryFolder: folder, Token: test.mode}, &metaservice.Environment{Machine: machine})
				if err != nil {
					t.Fatal(err)
				}
				defer engine.Dispose(context.Background())
				builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: []byte(`{"command": ["x"]}`)})
				if err != nil {
					t.Fatal(err)
				}
				sandbox, err := builder.StartSandbox(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if result := wait(t, sandbox); !result.Success() {
					t.Errorf("the task ended so: %v", result.Outcome())
				}
			})
		})
	}
}
