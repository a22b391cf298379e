package processes_test

import (
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

func starter(t *testing.T, mode processes.Mode) *processes.Starter {
	t.Helper()
	s, err := processes.New(processes.Config{Mode: mode, Shim: shim()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	for _, mode := range []processes.Mode{processes.ModeCgroup, processes.ModeShim, processes.ModeAuto} {
		t.Run(mode.String(), func(t *testing.T) {
			contract.Processes(t, func(t *testing.T) ports.Processes { return starter(t, mode) })
		})
	}
}

func TestShellContract(t *testing.T) {
	for _, mode := range []processes.Mode{processes.ModeCgroup, processes.ModeShim, processes.ModeAuto} {
		t.Run(mode.String(), func(t *testing.T) {
			contract.Shells(t, func(t *testing.T) ports.Shells { return starter(t, mode) })
		})
	}
}

func TestConfig(t *testing.T) {
	for _, config := range []processes.Config{{}, {Mode: processes.ModeShim}, {Mode: processes.ModeAuto, Shim: []string{""}}, {Mode: 77, Shim: shim()}} {
		if _, err := processes.New(config); err == nil || !strings.HasPrefix(err.Error(), "processes: ") {
			t.Errorf("%+v: %v", config, err)
		}
	}
	if _, err := processes.New(processes.Config{Mode: processes.ModeCgroup}); err != nil {
		t.Error(err)
	}
}
