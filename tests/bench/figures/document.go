package figures

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/template"
)

//go:embed performance.md.tmpl
var text string

// rows are the document's, in its order. What isn't among the figures is told to be missing, and a figure that
// isn't here is an error.
var rows = []string{
	"an artifact of 1 GiB",
	"an artifact of 1 GiB, and the kernel",
	"an artifact of 1 GiB, and the ancestor's way",
	"10,000 files of 1 KiB",
	"a command's log of 1 GiB",
	"a list of 100,000 names",
	"an action there and back",
	"an action without a file",
	"a shell's output, 1 GiB",
	"a shell's output, host's CPU",
	"a shell's output, guest's CPU",
	"a shell's output, and ssh",
	"a shell's input, 1 GiB",
	"a shell's input, host's CPU",
	"a shell's input, guest's CPU",
	"a shell's input, and ssh",
	"a shell's output with 5 ms",
	"a shell's output with 5 ms, and the bound",
	"a byte to a shell and back",
	"from a guest's start to its first line of log",
	"an idle guest's memory",
	"an idle guest's memory, and the bound",
	"an idle guest's memory, its task over",
	"an idle guest's memory, its task over, and the bound",
	"an idle guest's goroutines",
	"1,000 idle guests' CPU",
	"from a machine's start to its first line of log",
	"an artifact out of a machine",
	"a log out of a machine, from a terminal",
	"a shell's output out of a machine",
}

// Read reads the figures that were kept in a folder.
func Read(folder string) (all map[string]Figure, growth []Point, err error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, nil, err
	}
	all = make(map[string]Figure)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, err
		}
		if filepath.Base(file) == fileName(GrowthName) {
			err = json.Unmarshal(data, &growth)
		} else {
			var figure Figure
			err = json.Unmarshal(data, &figure)
			all[figure.What] = figure
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return all, growth, nil
}

// Document is docs/performance.md with these figures; plot is the name of the growth's picture.
func Document(all map[string]Figure, growth []Point, machine, plot string) ([]byte, error) {
	for what := range all {
		if !slices.Contains(rows, what) {
			return nil, fmt.Errorf("the document has no row for %q", what)
		}
	}
	if len(all) == 0 && len(growth) == 0 {
		return nil, errors.New("nothing was measured")
	}
	var table []string
	for _, what := range rows {
		figure, ok := all[what]
		if !ok {
			table = append(table, fmt.Sprintf("| %s | not measured in this run | | | | |", what))
			continue
		}
		reached := ""
		if !figure.Reached() {
			reached = ", **missed**"
		}
		table = append(table, fmt.Sprintf("| %s | %s | %s: %s | %.2f | %s%s | `%s` |",
			what, figure.OursText(), figure.Beside, figure.LimitText(), figure.Ratio(), figure.WantedText(), reached, figure.Test))
	}
	var points []string
	for _, p := range growth {
		points = append(points, fmt.Sprintf("| %d | %s MiB | %s MiB | %d | %s %% | %s %% |",
			p.Guests, Number(p.Heap), Number(p.Resident), p.Goroutines, Number(p.Idle), Number(p.Busy)))
	}
	page, err := template.New("").Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = page.Execute(&out, map[string]string{
		"Machine": machine, "Table": strings.Join(table, "\n"), "Growth": strings.Join(points, "\n"), "Plot": plot,
	})
	return out.Bytes(), err
}

// Machine is what the figures were measured on, as far as it is told.
func Machine() string {
	parts := []string{fmt.Sprintf("%d cores", runtime.NumCPU())}
	if model := field("/proc/cpuinfo", "model name"); model != "" {
		parts = append(parts, model)
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		version, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-") // what follows is whose build it is
		parts = append(parts, "Linux "+version)
	}
	return strings.Join(append(parts, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH), ", ")
}

// field is a field of a file with lines of "name: value", the first of that name.
func field(file, name string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
