package guestinit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// installed is where the services look for guest-tools.
const installed = "/usr/local/sbin/guest-tools"

// needTool ends a test whose tool is missing: in CI, make vm-tools installs it.
func needTool(t *testing.T, name string) string {
	t.Helper()
	found, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("%v: make vm-tools installs it", err)
	}
	if err != nil {
		t.Skip(err)
	}
	return found
}

func TestSystemdTakesTheUnit(t *testing.T) {
	tool := needTool(t, "systemd-analyze")
	text, err := os.ReadFile("../../docs/guest-tools.service")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(text string) (string, error) {
		unit := filepath.Join(t.TempDir(), "guest-tools.service")
		if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		said, err := exec.Command(tool, "verify", "--recursive-errors=no", unit).CombinedOutput()
		return string(said), err
	}
	// It looks for the program, too, which is in the image and not here.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here := strings.Replace(string(text), installed, self, 1)
	if here == string(text) {
		t.Fatalf("the unit doesn't start %s", installed)
	}
	if said, err := verify(here); err != nil || said != "" {
		t.Errorf("%v: %s", err, said)
	}
	if said, _ := verify(strings.Replace(here, "KillMode=mixed", "KillMode=gentle", 1)); said == "" {
		t.Error("a wrong unit is taken as well: this test shows nothing")
	}
}

func TestTheOpenRCScriptIsOne(t *testing.T) {
	const script = "../../docs/guest-tools.openrc"
	if said, err := exec.Command("/bin/sh", "-n", script).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	// openrc-run sources it, and then runs what these name.
	said, err := exec.Command("/bin/sh", "-c", `RC_SVCNAME=guest-tools; . "$1"; after() { echo "after $*"; }; depend; echo "$command $command_args $pidfile"`, "sh", script).CombinedOutput()
	if want := "after net\n" + installed + " run /run/guest-tools.pid\n"; err != nil || string(said) != want {
		t.Errorf("it says %q, %v, want %q", said, err, want)
	}
}

func TestTheManualHasEveryOption(t *testing.T) {
	text, err := os.ReadFile("../../docs/images.md")
	if err != nil {
		t.Fatal(err)
	}
	_, err = parseOptions(optionPrefix + "nosuch=x")
	_, list, found := strings.Cut(err.Error(), "there are ")
	if !found {
		t.Fatalf("the error lists no options: %v", err)
	}
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		if name != "and" && !strings.Contains(string(text), "`"+optionPrefix+name+"=") {
			t.Errorf("the manual has no %s%s", optionPrefix, name)
		}
	}
}
