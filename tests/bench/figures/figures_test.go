package figures

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values  []float64
		q, want float64
	}{
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{7, 6, 5, 4, 3, 2, 1}, 0.25, 2.5},
		{[]float64{5}, 0.75, 5},
		{[]float64{1, 2, 3}, 1, 3},
	} {
		if got := Quantile(test.values, test.q); got != test.want {
			t.Errorf("%v, %v: %v, want %v", test.values, test.q, got, test.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 0.0312: "0.0312", 1: "1.00", 12.34: "12.3", 123.4: "123", 1234: "1,234", 1234567: "1,234,567", -1234: "-1,234", -123: "-123",
	} {
		if got := Number(value); got != want {
			t.Errorf("%v is %q, want %q", value, got, want)
		}
	}
}

// What was not measured must never look as if it had been.
func TestDocumentTellsWhatIsMissingAndMissed(t *testing.T) {
	page, err := Document(map[string]Figure{
		rows[0]: {What: rows[0], Unit: "MiB/s", Ours: []float64{90, 100, 110}, Beside: "a limit", Limit: []float64{100, 100, 100}, Wanted: 0.9, Test: "BenchmarkA"},
		rows[1]: {What: rows[1], Unit: "s", Ours: []float64{2}, Beside: "a bound", Limit: []float64{1}, Less: true, Wanted: 1, Test: "BenchmarkB"},
	}, []Point{{Guests: 1000, Heap: 30}}, "a machine", "plot.svg")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| " + rows[0] + " | 100 MiB/s (95.0 to 105) | a limit: 100 MiB/s (100 to 100) | 1.00 | ≥ 0.90 | `BenchmarkA` |",
		"| " + rows[1] + " | 2.00 s | a bound: 1.00 s | 2.00 | ≤ 1.00, **missed** | `BenchmarkB` |",
		"| " + rows[2] + " | not measured in this run | | | | |",
		"| 1000 | 30.0 MiB |", "a machine", "(plot.svg)",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
	if _, err := Document(map[string]Figure{"new": {What: "new"}}, nil, "", ""); err == nil || !strings.Contains(err.Error(), "new") {
		t.Errorf("a figure without a row: %v", err)
	}
	if _, err := Document(nil, nil, "", ""); err == nil {
		t.Error("a document of nothing")
	}
}

func TestFiguresAreKeptAndRead(t *testing.T) {
	folder := t.TempDir()
	figure := Figure{What: "10,000 files", Unit: "files/s", Ours: []float64{1, 2}, Limit: []float64{3}}
	for name, v := range map[string]any{figure.What: figure, GrowthName: []Point{{Guests: 7}}} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, fileName(name)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, growth, err := Read(folder)
	if err != nil || len(all) != 1 || all[figure.What].Ratio() != 0.5 || len(growth) != 1 || growth[0].Guests != 7 {
		t.Errorf("%v, %v, %v", all, growth, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "broken.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(folder); err == nil || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("a broken file: %v", err)
	}
}
