// Package figures is how benchmarks measure things beside their limits, and what of it is kept for
// docs/performance.md. Machines are noisy: what is compared is measured in turns, in one run, and told by
// medians and quartiles.
package figures

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FolderVariable names the folder in which figures are kept, as JSON; without it they are only printed.
const FolderVariable = "METASERVICE_FIGURES"

// Figure is something that was measured, beside its limit.
type Figure struct {
	What   string    // its name, by which the document finds it
	Unit   string    // of ours and of the limit
	Ours   []float64 // one of each turn
	Beside string    // what the limit is
	Limit  []float64 // one of each turn; of a bound, which is not measured, the bound alone
	Less   bool      // less is better, as of times
	Wanted float64   // the ratio of ours to the limit that is to be had; 0 is none in particular
	Test   string    // what measured it
}

// InTurns calls each of measures once for nothing, for caches, connections and page tables, and then all of them
// in turns; what they returned is told measure by measure.
func InTurns(turns int, measures ...func() float64) [][]float64 {
	for _, measure := range measures {
		measure()
	}
	got := make([][]float64, len(measures))
	for range turns {
		for i, measure := range measures {
			got[i] = append(got[i], measure())
		}
	}
	return got
}

// Ratio is that of the medians; 1 means "as the limit".
func (f Figure) Ratio() float64 { return Quantile(f.Ours, 0.5) / Quantile(f.Limit, 0.5) }

// Reached tells whether the ratio is what was wanted.
func (f Figure) Reached() bool {
	switch {
	case f.Wanted == 0:
		return true
	case f.Less:
		return f.Ratio() <= f.Wanted
	}
	return f.Ratio() >= f.Wanted
}

// Report prints the figure, and keeps it where figures are kept.
func (f Figure) Report(b *testing.B) {
	b.Helper()
	f.Test = b.Name()
	b.ReportMetric(f.Ratio(), "ratio")
	fmt.Printf("%s: ours %s, %s %s, ratio %.2f%s\n", f.What, f.OursText(), f.Beside, f.LimitText(), f.Ratio(), f.wantedText())
	Keep(b, f.What, f)
}

func (f Figure) wantedText() string {
	if f.Wanted == 0 {
		return ""
	}
	return ", wanted " + f.WantedText()
}

// WantedText is the bound on the ratio.
func (f Figure) WantedText() string {
	if f.Wanted == 0 {
		return ""
	}
	sign := "≥"
	if f.Less {
		sign = "≤"
	}
	return fmt.Sprintf("%s %.2f", sign, f.Wanted)
}

// OursText is the median, the unit and the quartiles.
func (f Figure) OursText() string { return spread(f.Ours, f.Unit) }

// LimitText is OursText of the limit.
func (f Figure) LimitText() string { return spread(f.Limit, f.Unit) }

func spread(values []float64, unit string) string {
	text := Number(Quantile(values, 0.5)) + " " + unit
	if len(values) < 3 {
		return text
	}
	return fmt.Sprintf("%s (%s to %s)", text, Number(Quantile(values, 0.25)), Number(Quantile(values, 0.75)))
}

// Number is v to three digits, four behind the point at most.
func Number(v float64) string {
	digits := 0
	for abs := math.Abs(v); digits < 4 && abs != 0 && abs < 100; abs *= 10 {
		digits++
	}
	text := fmt.Sprintf("%.*f", digits, v)
	for i := len(text) - 3; i > 0 && digits == 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Quantile is what the share q of values is below, interpolated between neighbours; 0.5 is the median.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below+1 == len(sorted) {
		return sorted[below]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}

// Point is what so many guests cost their host.
type Point struct {
	Guests     int
	Heap       float64 // MiB that can be reached, stacks included
	Resident   float64 // MiB of memory that the process holds
	Goroutines int
	Idle       float64 // share of a core, in percent, while the guests do nothing
	Busy       float64 // the same while each prints a line every second
}

// GrowthName is the name under which a []Point is kept.
const GrowthName = "growth"

// Keep writes v where figures are kept, under a name.
func Keep(b *testing.B, name string, v any) {
	b.Helper()
	folder := os.Getenv(FolderVariable)
	if folder == "" {
		return
	}
	data, err := json.MarshalIndent(v, "", "\t")
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, fileName(name)), data, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// fileName has nothing in it that a file's name can't have.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name) + ".json"
}
