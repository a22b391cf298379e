package main

import (
	"runtime"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/processmachine"
)

func TestOwnersOfTheTasksFolders(t *testing.T) {
	if owner, err := ownerOf(""); owner != nil || err != nil {
		t.Errorf("nobody is %v, %v", owner, err)
	}
	if runtime.GOOS == "windows" {
		return // where there are none
	}
	for name, want := range map[string]processmachine.Owner{
		"root": {UID: 0, GID: 0}, "0": {UID: 0, GID: 0}, "12:34": {UID: 12, GID: 34},
		"4000000000": {UID: 4000000000, GID: 4000000000}, // as no database knows it
	} {
		if got, err := ownerOf(name); err != nil || *got != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	for name, says := range map[string]string{
		"no-such-user": "does not exist", "12:staff": "uid:gid", "12:": "uid:gid", "-1": "does not exist",
	} {
		if got, err := ownerOf(name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
}
