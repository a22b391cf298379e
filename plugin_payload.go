package metaservice

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Payload is one task. Its environment often holds secrets, so it shows itself in JSON alone.
type Payload struct {
	Command   []string          `json:"command" jsonschema:"The program, and its arguments."`
	Env       map[string]string `json:"env,omitzero" jsonschema:"Variables of the task's environment, beside those of the guest."`
	Machine   json.RawMessage   `json:"machine,omitzero" jsonschema:"What the task asks of its machine, in the machine's own words."`
	Timeout   Duration          `json:"timeout,omitzero" jsonschema:"How long the task may take, once its machine is booted. 0s, the default, is for ever."`
	Artifacts []string          `json:"artifacts,omitzero" jsonschema:"Files and folders of the guest that the worker is to keep."`
}

// MaxPayload is how many bytes a payload may have.
const MaxPayload = 1 << 20

// String tells how much there is, never what.
func (p Payload) String() string {
	return fmt.Sprintf("a command of %d arguments with %d variables", len(p.Command), len(p.Env))
}

// GoString is String: %#v shows no more.
func (p Payload) GoString() string { return p.String() }

// LogValue tells how much there is, never what.
func (p Payload) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("args", len(p.Command)), slog.Int("env", len(p.Env)),
		slog.Duration("timeout", time.Duration(p.Timeout)), slog.Int("artifacts", len(p.Artifacts)))
}

// payloadSchema is the schema of a Payload for any machine.
var payloadSchema = func() *jsonschema.Schema {
	s := schemaFor[Payload]()
	s.Title = "A task for a metaservice engine"
	s.Properties["command"].MinItems = jsonschema.Ptr(1)
	s.Properties["command"].Items.Pattern = patternText
	env := s.Properties["env"]
	env.PropertyNames = &jsonschema.Schema{Pattern: patternName}
	env.AdditionalProperties.Pattern = patternText
	s.Properties["artifacts"].Items.Pattern = patternPath
	return s
}()

// payloadSchemaFor is the schema of the payloads for one machine.
func payloadSchemaFor(machine ports.Machine) ([]byte, error) {
	s := payloadSchema.CloneSchemas()
	options := s.Properties["machine"]
	description := options.Description
	if known, ok := machine.(ports.MachineWithOptions); ok {
		options = new(jsonschema.Schema)
		if err := json.Unmarshal(known.OptionsSchema(), options); err != nil {
			return nil, fmt.Errorf("the schema of the machine's options is not one: %w", err)
		}
		s.Properties["machine"] = options
	} else {
		options.MaxProperties = jsonschema.Ptr(0)
		description = "Nothing: this machine has no options."
	}
	if options.Description == "" {
		options.Description = description
	}
	return json.MarshalIndent(s, "", "  ")
}

// decodePayload reads a payload, has the machine look at its part of it, and tells every mistake.
func decodePayload(data []byte, checkMachine func([]byte) error) (host.Payload, error) {
	if len(data) > MaxPayload {
		return host.Payload{}, &MalformedPayloadError{Mistakes: []Mistake{{
			Path: "payload", Found: fmt.Sprintf("%d bytes long", len(data)), Right: fmt.Sprintf("%d bytes at most", MaxPayload),
		}}}
	}
	var payload Payload
	mistakes := decodeChecked(data, "payload", payloadSchema, &payload)
	if len(payload.Command) > 0 && payload.Command[0] == "" {
		mistakes = append(mistakes, Mistake{Path: "command[0]", Found: "empty", Right: "the program to run"})
	}
	err := checkMachine(payload.Machine)
	if malformed, ok := errors.AsType[*MalformedPayloadError](err); ok {
		mistakes = append(mistakes, malformed.Mistakes...)
	} else if err != nil {
		return host.Payload{}, err
	}
	if len(mistakes) > 0 {
		return host.Payload{}, &MalformedPayloadError{Mistakes: mistakes}
	}
	return host.Payload{
		Execute:   domain.Execute{Command: payload.Command, Env: payload.Env},
		Machine:   payload.Machine,
		Timeout:   time.Duration(payload.Timeout),
		Artifacts: payload.Artifacts,
	}, nil
}
