package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// bin is the folder with both programs; they are built when first asked for.
var bin = sync.OnceValues(func() (string, error) {
	if given := os.Getenv(binVariable); given != "" {
		return given, nil
	}
	folder, err := os.MkdirTemp("", "faults-bin-")
	if err != nil {
		return "", err
	}
	built = folder
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", folder+"/",
		"github.com/hexworker/metaservice/cmd/metaservice", "github.com/hexworker/metaservice/cmd/guest-tools")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, output)
	}
	return folder, nil
})

// built is what is to be removed of that.
var built string

// binVariable tells a child of this test's program where the programs are.
const binVariable = "FAULTS_BIN"

func tool(t *testing.T, name string) string {
	t.Helper()
	folder, err := bin()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, name)
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		if built != "" {
			os.RemoveAll(built)
		}
		os.Exit(status)
	}))
}

// eventually polls until something holds.
func eventually(t *testing.T, otherwise string, holds func() bool) {
	t.Helper()
	if !comesTrue(holds) {
		t.Fatal(otherwise)
	}
}

// comesTrue polls until something holds, or it is too late for that.
func comesTrue(holds func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
