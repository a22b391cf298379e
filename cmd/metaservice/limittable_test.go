package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

var update = flag.Bool("update", false, "write docs/limits.md anew")

const limitsManual = "../../docs/limits.md"

// manualOf is docs/limits.md.
func manualOf(rows []domain.LimitRow) string {
	var b strings.Builder
	b.WriteString(`# Limits

What a guest can make its host do, at most. This page is made of what the code goes by, and
` + "`metaservice limits`" + ` tells the same: ` + "`go test ./cmd/metaservice -run TestTheManualOfLimits -update`" + ` writes it anew.

A row whose change is ` + "`--limit, Limits`" + ` is a field of ` + "`metaservice.Limits`" + `: set it there, by ` + "`--limit NAME=VALUE`" + ` on
the command line, or by its name in an engine's config (` + "`limits.logBytes`" + `). What is fixed says why.

A limit that was hit is told to the guest where it can act on it, to the caller in the error, and in the
host's log with a count: the first four times, and then ever more seldom, so that no guest fills it.

All of it holds for one guest by itself. Two things hold only in ` + "`Serve`" + ` and in the machines that come with the
project, not where ` + "`ServeHTTP`" + ` runs in somebody's own server: what is said of connections, and the names in the
Host header.
`)
	area := ""
	for _, row := range rows {
		if row.Area != area {
			area = row.Area
			fmt.Fprintf(&b, "\n## %s\n\n| limit | default | of | at it | change |\n| --- | --- | --- | --- | --- |\n",
				strings.ToUpper(area[:1])+area[1:])
		}
		name := row.Name
		if row.Change == domain.ByLimit {
			name = "`" + name + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, row.Default, row.Of, row.AtLimit, row.Change)
	}
	return b.String()
}

// The manual is what the code goes by.
func TestTheManualOfLimits(t *testing.T) {
	want := manualOf(limitRows())
	if *update {
		if err := os.WriteFile(limitsManual, []byte(want), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(limitsManual)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/limits.md is stale: run go test ./cmd/metaservice -run TestTheManualOfLimits -update\n%s", diff)
	}
}

// Each row says all that there is to say, and no two of an area have the same name.
func TestTheTableOfLimits(t *testing.T) {
	seen := make(map[string]bool)
	areas := make(map[string]bool)
	last := ""
	for _, row := range limitRows() {
		if row.Area == "" || row.Name == "" || row.Default == "" || row.Of == "" || row.AtLimit == "" || row.Change == "" {
			t.Errorf("a row says too little: %+v", row)
		}
		if strings.ContainsAny(row.Area+row.Name+row.Default+row.Of+row.AtLimit+row.Change, "|\n") {
			t.Errorf("a row breaks the table: %+v", row)
		}
		if key := row.Area + "/" + row.Name; seen[key] {
			t.Errorf("%s is there twice", key)
		} else {
			seen[key] = true
		}
		if row.Area != last && areas[row.Area] {
			t.Errorf("the area %s is there twice", row.Area)
		}
		areas[row.Area] = true
		last = row.Area
	}
}

func TestLimitsAreTold(t *testing.T) {
	status, text, stderr := line(t, "limits")
	if status != 0 || stderr != "" {
		t.Errorf("status %d, %s", status, stderr)
	}
	for _, row := range limitRows() {
		if !strings.Contains(text, "  "+row.Name+" ") || !strings.Contains(text, row.AtLimit) {
			t.Errorf("%s is not in it", row.Name)
		}
	}
	status, text, stderr = line(t, "limits", "--json")
	var rows []domain.LimitRow
	if err := json.Unmarshal([]byte(text), &rows); err != nil || status != 0 || stderr != "" {
		t.Fatalf("status %d, %s, %v", status, stderr, err)
	}
	if diff := cmp.Diff(limitRows(), rows); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if status, _, stderr := line(t, "limits", "all"); status != exitOurs || !strings.Contains(stderr, "takes no arguments") {
		t.Errorf("status %d, %s", status, stderr)
	}
}
