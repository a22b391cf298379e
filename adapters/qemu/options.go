package qemu

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// wish is what one guest gets.
type wish struct {
	memory int64
	cpus   int
	nat    bool
	token  bool
}

// The networks that a task may ask for.
const (
	isolated = "isolated"
	outside  = "nat"
)

// CheckOptions implements ports.MachineWithOptions.
func (m *Machine) CheckOptions(options []byte) error {
	_, err := m.wish(options)
	return err
}

// wish reads what a task asks for, over what it gets anyway.
func (m *Machine) wish(options []byte) (wish, error) {
	w := wish{memory: m.config.Memory, cpus: m.config.CPUs, nat: m.config.NAT}
	if len(options) == 0 || string(options) == "null" {
		return w, nil
	}
	var given map[string]jsontext.Value
	if err := jsonv2.Unmarshal(options, &given); err != nil {
		return w, &ports.MalformedPayloadError{Mistakes: []ports.PayloadMistake{{Found: "no object, or one with a key twice", Right: "an object with memory, cpus and network, or less"}}}
	}
	var mistakes []ports.PayloadMistake
	refuse := func(path string, value jsontext.Value, right string) {
		mistakes = append(mistakes, ports.PayloadMistake{Path: path, Found: domain.Cut(string(value)), Right: right})
	}
	for _, name := range slices.Sorted(maps.Keys(given)) { // what is wrong is told in the same order each time
		value := given[name]
		switch name {
		case "memory":
			if n, ok := parseSize(value); !ok || n < MinMemory || n > m.config.MaxMemory {
				refuse(name, value, m.memoryRule())
			} else {
				w.memory = n
			}
		case "cpus":
			isNumber := value.Kind() == '0' // null would be read as nothing
			if !isNumber || json.Unmarshal(value, &w.cpus) != nil || w.cpus < 1 || w.cpus > m.config.MaxCPUs {
				refuse(name, value, fmt.Sprintf("a number from 1 to %d", m.config.MaxCPUs))
			}
		case "network":
			var network string
			err := json.Unmarshal(value, &network)
			if err != nil || network != isolated && (network != outside || !m.config.AllowNAT) {
				refuse(name, value, strings.Join(m.networks(), " or "))
			}
			w.nat = network == outside
		default:
			mistakes = append(mistakes, ports.PayloadMistake{Path: domain.Cut(name), Found: "there", Right: "left out: there are memory, cpus and network"})
		}
	}
	if len(mistakes) > 0 {
		return w, &ports.MalformedPayloadError{Mistakes: mistakes}
	}
	return w, nil
}

func (m *Machine) memoryRule() string {
	return fmt.Sprintf("a size from %s to %s, as text like \"512MiB\"", humanize.IBytes(uint64(MinMemory)), humanize.IBytes(uint64(m.config.MaxMemory)))
}

// networks are those that a task may have.
func (m *Machine) networks() []string {
	if m.config.AllowNAT {
		return []string{`"` + isolated + `"`, `"` + outside + `"`}
	}
	return []string{`"` + isolated + `"`}
}

func parseSize(value jsontext.Value) (int64, bool) {
	var text string
	if json.Unmarshal(value, &text) != nil {
		return 0, false
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64>>1 {
		return 0, false
	}
	return int64(n), true
}

// OptionsSchema implements ports.MachineWithOptions.
func (m *Machine) OptionsSchema() []byte {
	network := isolated
	if m.config.NAT {
		network = outside
	}
	return fmt.Appendf(nil, `{
  "type": "object",
  "description": "What the task asks of its virtual machine.",
  "additionalProperties": false,
  "properties": {
    "memory": {"type": "string", "description": "How much memory the guest has: %s.", "pattern": "^[0-9.]+ *[kKMGT]?i?[bB]?$", "default": %q},
    "cpus": {"type": "integer", "description": "How many processors the guest has.", "minimum": 1, "maximum": %d, "default": %d},
    "network": {"description": "Whether the guest reaches nothing but its host's service, or the world as well.", "enum": [%s], "default": %q}
  }
}`, strings.ReplaceAll(m.memoryRule(), `"`, `\"`), strings.ReplaceAll(humanize.IBytes(uint64(m.config.Memory)), " ", ""),
		m.config.MaxCPUs, m.config.CPUs, strings.Join(m.networks(), ", "), network)
}
