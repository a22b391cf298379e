package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
)

// Programs read these names; they don't change.
func TestResultForPrograms(t *testing.T) {
	folder := t.TempDir()
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	known := ended{
		outcome: domain.Outcome{
			Status: domain.StatusFailed,
			Result: &domain.Result{Report: &domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonSignaled, Message: "m"}},
			Log:    domain.LogSummary{Bytes: 10, Cut: 5},
		},
		artifacts: []fetched{
			{artifact: artifact{path: "out", target: filepath.Join(folder, "out")}, kind: "folder",
				Collected: host.Collected{Files: 2, Bytes: 3, Refused: 1, Err: errors.New("<one>\nrefused")}},
			{artifact: artifact{path: "gone", target: filepath.Join(folder, "gone")}, Collected: host.Collected{Err: errors.New("not found")}},
		},
		begun:   begun,
		took:    1500 * time.Millisecond,
		reasons: []error{nil, errors.New("a"), errors.New("b")},
	}
	for name, test := range map[string]struct {
		ended ended
		want  string
	}{
		"all that can be known": {known, `{"status": "failed", "exitCode": 137, "signal": "SIGKILL", "reason": "signaled",
			"message": "m", "error": "a; b", "logComplete": false, "logBytes": 10, "logCut": 5,
			"startedAt": "2026-01-02T02:04:05Z", "durationMs": 1500, "artifacts": [
			{"path": "out", "target": "` + folder + `/out", "kind": "folder", "files": 2, "bytes": 3, "refused": 1, "error": "<one>; refused"},
			{"path": "gone", "target": "` + folder + `/gone", "kind": null, "files": 0, "bytes": 0, "refused": 0, "error": "not found"}]}`},
		"version 1": {ended{outcome: domain.Outcome{Status: domain.StatusSuccess, Result: &domain.Result{Success: true}}, begun: begun},
			`{"status": "success", "exitCode": null, "signal": null, "reason": null, "message": null, "error": null,
			"logComplete": true, "logBytes": 0, "logCut": 0, "startedAt": "2026-01-02T02:04:05Z", "durationMs": 0, "artifacts": []}`},
		"nothing": {ended{outcome: domain.Outcome{Status: domain.StatusMachineDied}, begun: begun},
			`{"status": "machine-died", "exitCode": null, "signal": null, "reason": null, "message": null, "error": null,
			"logComplete": false, "logBytes": 0, "logCut": 0, "startedAt": "2026-01-02T02:04:05Z", "durationMs": 0, "artifacts": []}`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "result.json")
			if err := newResult(test.ended).write(path); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := errors.Join(json.Unmarshal(text, &got), json.Unmarshal([]byte(test.want), &want)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestResultIsWholeOrAbsent(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "result.json")
	link := filepath.Join(folder, "link.json")
	if err := errors.Join(os.WriteFile(path, []byte("old"), 0o600), os.Symlink("result.json", link)); err != nil {
		t.Fatal(err)
	}
	if err := (result{}).write(link); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); !json.Valid(text) {
		t.Errorf("the file behind the link holds %q", text)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is %v, %v", info, err)
	}
	taken := filepath.Join(folder, "taken")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (result{}).write(taken); err == nil {
		t.Error("a folder was replaced")
	}
	if entries, _ := os.ReadDir(folder); len(entries) != 3 {
		t.Errorf("something is left behind: %v", entries)
	}
}
