package main

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct{ line, id, wrong string }{
		{`{"id": "a.b-C_1", "payload": {}}`, "a.b-C_1", ""},
		{`{"id": "console"}`, "console", ""},
		{`{"id": "x", "payload": {}, "priority": 1}`, "x", `"priority"`},
		{`{"priority": 1, "id": "x"}`, "x", `"priority"`},
		{``, "", "empty"},
		{`{"id": "x"} {"id": "y"}`, "", "more than one"},
		{`{"id": "x"}}`, "", "more than one"},
		{`{"id": "x`, "", "no task"},
		{`{"id": ""}`, "", "1 to 100"},
		{`{"id": ".x"}`, ".x", "begin"},
		{`{"id": "x."}`, "x.", "end"},
		{`{"id": "x "}`, "x ", "letters"},
		{`{"id": "NUL"}`, "NUL", "Windows"},
		{`{"id": "com1.txt"}`, "com1.txt", "Windows"},
		{`{"id": "SEEN"}`, "SEEN", "before"},
	}
	for _, test := range tests {
		seen := newMemory(10)
		seen.add("seen")
		task, err := parse([]byte(test.line), seen)
		if task.ID != test.id {
			t.Errorf("%s has the id %q, want %q", test.line, task.ID, test.id)
		}
		if (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%s: %v, want %q", test.line, err, test.wrong)
		}
	}
}

// The ids of a worker that never ends took ever more memory.
func TestMemory(t *testing.T) {
	m := newMemory(2)
	for i, step := range []struct {
		id  string
		new bool
	}{{"a", true}, {"A", false}, {"b", true}, {"a", false}, {"c", true}, {"b", false}, {"a", true}, {"b", true}} {
		if got := m.add(step.id); got != step.new {
			t.Errorf("step %d: %s is new: %v", i, step.id, got)
		}
		if len(m.ids) > 2 {
			t.Errorf("it holds %d ids", len(m.ids))
		}
	}
}
