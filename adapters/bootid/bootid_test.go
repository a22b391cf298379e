package bootid

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

func TestKernelsID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "boot_id")
	const want = "0b6e2a0c-5f7b-4c55-9a58-6d3a2f3c1b10"
	if err := os.WriteFile(file, []byte(want+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := get(file); got != want {
		t.Errorf("the boot id is %q, want the kernel's %q", got, want)
	}
}

func TestWithoutAKernelsID(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("\x1b[31mnonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{bad, bad + ".missing"} {
		first, second := get(file), get(file)
		if uuid.Validate(first) != nil || first == second {
			t.Errorf("two starts have the boot ids %q and %q, want two random ones", first, second)
		}
	}
}
