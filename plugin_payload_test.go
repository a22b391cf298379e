package metaservice_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
	"github.com/hexworker/metaservice/ports"
)

// nowhere is a machine without options that no test gets to boot.
type nowhere struct{ metaservice.Machine }

// picky is a machine that takes no options but its own, and tells two mistakes of others.
type picky struct{ metaservice.Machine }

func (picky) CheckOptions(options []byte) error {
	if len(options) == 0 || string(options) == `{"image":"a"}` {
		return nil
	}
	return &metaservice.MalformedPayloadError{Mistakes: []metaservice.Mistake{
		{Path: "image", Found: "missing", Right: "the name of an image"},
		{Found: "strange", Right: "something else"},
	}}
}

func (picky) OptionsSchema() []byte {
	return []byte(`{"type":"object","properties":{"image":{"type":"string"}},"required":["image"],"additionalProperties":false}`)
}

func newEngine(t *testing.T, machine metaservice.Machine, config metaservice.Config) metaservice.Engine {
	t.Helper()
	engine, err := metaservice.NewEngine(config, &metaservice.Environment{Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Dispose(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return engine
}

const (
	strings1 = "an array of strings, with one at least"
	duration = `a duration such as "90s" or "1h30m", not less than 0`
	fields   = "one of command, env, machine, timeout, artifacts"
)

func TestMalformedPayloads(t *testing.T) {
	type mistakes = [][3]string // path, found, right
	tests := map[string]struct {
		payload string
		want    mistakes
		schema  bool // the schema has no word for it
	}{
		"nothing":       {"", mistakes{{"payload", "empty", "an object"}}, true},
		"blanks":        {" \n", mistakes{{"payload", "empty", "an object"}}, true},
		"null":          {"null", mistakes{{"payload", "null", "an object"}}, false},
		"an array":      {`["true"]`, mistakes{{"payload", "an array", "an object"}}, false},
		"no fields":     {`{}`, mistakes{{"command", "missing", strings1}}, false},
		"trailing data": {`{"command":["a"]} {}`, mistakes{{"payload", "followed by more", "an object, and nothing after it"}}, true},
		"unknown fields": {`{"command":["a"],"Env":{},"x y":1}`, mistakes{
			{"Env", "unknown", fields}, {`["x y"]`, "unknown", fields},
		}, false},
		"a command of another type": {`{"command":"make"}`, mistakes{{"command", "a string", strings1}}, false},
		"a command that is null":    {`{"command":null}`, mistakes{{"command", "null", strings1}}, false},
		"an empty command":          {`{"command":[]}`, mistakes{{"command", "empty", strings1}}, false},
		"no program":                {`{"command":["","a"]}`, mistakes{{"command[0]", "empty", "the program to run"}}, true},
		"arguments of other types": {`{"command":["a",1,"b",null,{"c":[]}]}`, mistakes{
			{"command[1]", "a number", "a string"}, {"command[3]", "null", "a string"}, {"command[4]", "an object", "a string"},
		}, false},
		"NUL in an argument": {`{"command":["a","b","c\u0000"]}`, mistakes{{"command[2]", "a string with a NUL character", "a string"}}, false},
		"env of another type": {`{"command":["a"],"env":["A=1"]}`, mistakes{
			{"env", "an array", "an object of strings"},
		}, false},
		"variables": {`{"command":["a"],"env":{"A=B":"","":"","OK":"1","N":1,"NUL":"\u0000","\u0000":""}}`, mistakes{
			{`env["A=B"]`, "no name of a variable", "named without '=' and NUL characters, and not by nothing"},
			{`env[""]`, "no name of a variable", "named without '=' and NUL characters, and not by nothing"},
			{`env["N"]`, "a number", "a string"},
			{`env["NUL"]`, "a string with a NUL character", "a string"},
			{`env["\x00"]`, "no name of a variable", "named without '=' and NUL characters, and not by nothing"},
		}, false},
		"the same twice": {`{"command":["a"],"env":{"A":"1","A":"1"},"command":["b"]}`, mistakes{
			{`env["A"]`, "there twice", "there once"}, {"command", "there twice", "there once"},
		}, true},
		"a bad duration":      {`{"command":["a"],"timeout":"90 seconds"}`, mistakes{{"timeout", `"90 seconds"`, duration}}, false},
		"a number of seconds": {`{"command":["a"],"timeout":90}`, mistakes{{"timeout", "a number", duration}}, false},
		"a negative timeout":  {`{"command":["a"],"timeout":"-1s"}`, mistakes{{"timeout", `"-1s"`, duration}}, false},
		"an endless timeout":  {`{"command":["a"],"timeout":"9999999999h"}`, mistakes{{"timeout", `"9999999999h"`, duration}}, true},
		"artifacts": {`{"command":["a"],"artifacts":["","a\u0000b",7]}`, mistakes{
			{"artifacts[0]", "no path", "a string that isn't empty, without a NUL character"},
			{"artifacts[1]", "no path", "a string that isn't empty, without a NUL character"},
			{"artifacts[2]", "a number", "a string that isn't empty, without a NUL character"},
		}, false},
		"options of a machine that has none": {`{"command":["a"],"machine":{"cpus": 2}}`, mistakes{
			{"machine", "there", "left out: this machine has no options"},
		}, false},
		"a machine of another type": {`{"command":["a"],"machine":"large"}`, mistakes{{"machine", "a string", "an object"}}, false},
		"several at once": {`{"env":{"A":1},"machine":{"x":1},"timeout":true,"nonsense":0}`, mistakes{
			{`env["A"]`, "a number", "a string"}, {"timeout", "a boolean", duration}, {"nonsense", "unknown", fields},
			{"command", "missing", strings1}, {"machine", "there", "left out: this machine has no options"},
		}, false},
	}
	engine := newEngine(t, nowhere{}, metaservice.Config{})
	schema := resolved(t, engine.PayloadSchema())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(test.payload)})
			malformed, ok := errors.AsType[*metaservice.MalformedPayloadError](err)
			if builder != nil || !ok {
				t.Fatalf("%v, %v", builder, err)
			}
			if diff := cmp.Diff(test.want, inWords(malformed.Mistakes)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var value any
			if json.Unmarshal([]byte(test.payload), &value) == nil && !test.schema && schema.Validate(value) == nil {
				t.Error("the published schema takes it")
			}
		})
	}
}

func inWords(mistakes []metaservice.Mistake) [][3]string {
	var words [][3]string
	for _, mistake := range mistakes {
		words = append(words, [3]string{mistake.Path, mistake.Found, mistake.Right})
	}
	return words
}

func resolved(t *testing.T, text []byte) *jsonschema.Resolved {
	t.Helper()
	var schema jsonschema.Schema
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

func TestWhatIsNoJSON(t *testing.T) {
	engine := newEngine(t, nowhere{}, metaservice.Config{})
	for _, payload := range []string{`{"command":["a"]`, `{'command':1}`, `make`, `{"command":["a"],}`, "{\"command\":[\"\xff\"]}"} {
		_, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(payload)})
		malformed, ok := errors.AsType[*metaservice.MalformedPayloadError](err)
		if !ok || len(malformed.Mistakes) != 1 || malformed.Mistakes[0].Path != "payload" ||
			!strings.HasPrefix(malformed.Mistakes[0].Found, "no JSON (") {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

func TestPayloadsThatAreTooMuch(t *testing.T) {
	engine := newEngine(t, nowhere{}, metaservice.Config{})
	build := func(payload string) *metaservice.MalformedPayloadError {
		_, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(payload)})
		malformed, ok := errors.AsType[*metaservice.MalformedPayloadError](err)
		if !ok {
			t.Fatal(err)
		}
		return malformed
	}
	if got := build(strings.Repeat(" ", metaservice.MaxPayload+1)).Mistakes[0].String(); got !=
		"payload is 1048577 bytes long, it must be 1048576 bytes at most" {
		t.Error(got)
	}
	many := build(`{"command":["a"` + strings.Repeat(",1", 300) + `]}`).Mistakes
	if len(many) != 101 || many[100].String() != "payload is wrong in 200 more places, it must be right in all of them" {
		t.Errorf("%d mistakes, %v", len(many), many[len(many)-1])
	}
	deep := build(`{"command":["a"],"machine":` + strings.Repeat(`[`, 20000) + strings.Repeat(`]`, 20000) + `}`)
	if !strings.Contains(deep.Error(), "no JSON") {
		t.Error(deep)
	}
	if builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{
		Payload: []byte(`{"command":["` + strings.Repeat("a", metaservice.MaxPayload-20) + `"]}`),
	}); err != nil {
		t.Error(err)
	} else if err := builder.Discard(); err != nil {
		t.Error(err)
	}
}

// What a variable or an argument holds is often a secret, and errors end up in logs.
func TestMistakesShowNoSecrets(t *testing.T) {
	engine := newEngine(t, nowhere{}, metaservice.Config{})
	for _, payload := range []string{
		`{"command":["s3cret\u0000"]}`, `{"command":"s3cret"}`, `{"command":["a"],"env":{"A":"s3cret\u0000"}}`,
		`{"command":["a"],"env":{"A":["s3cret"]}}`, `{"command":["a"],"env":"s3cret"}`,
		`{"command":["a"],"env":{"A":"s3cret}`, `{"command":["a"],"env":{"A":"s3cret"},"env":{}}`,
	} {
		_, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(payload)})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", payload, err)
		}
	}
	payload := metaservice.Payload{Command: []string{"s3cret"}, Env: map[string]string{"A": "s3cret"}}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("it", "payload", payload)
	for _, text := range []string{fmt.Sprint(payload), fmt.Sprintf("%#v", payload), fmt.Sprintf("%+v", payload), log.String()} {
		if strings.Contains(text, "s3cret") {
			t.Error(text)
		}
	}
}

// A payload that is fine here is fine by the schema, and Go's type writes such payloads.
func TestGoodPayloads(t *testing.T) {
	whole, err := json.Marshal(metaservice.Payload{
		Command: []string{"make", ""}, Env: map[string]string{"A": "1", "B C": ""}, Timeout: 90e9,
		Artifacts: []string{"out", "/tmp/x"}, Machine: json.RawMessage(`{}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	least, err := json.Marshal(metaservice.Payload{Command: []string{"true"}})
	if err != nil || string(least) != `{"command":["true"]}` {
		t.Errorf("%s, %v", least, err)
	}
	engine := newEngine(t, nowhere{}, metaservice.Config{})
	schema := resolved(t, engine.PayloadSchema())
	for _, payload := range []string{
		string(whole), string(least), `{"command":["a"],"machine":{ }}`, `{"command":["a\nb"],"env":{},"artifacts":[]}`,
		`{"command":["a"],"timeout":"0"}`, `{"command":["a"],"timeout":"+1h2.5m.5s1ms1us1µs1ns"}`, ` {"command":["ä€😀\ud83d\ude00"]} `,
	} {
		builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(payload)})
		if err != nil {
			t.Errorf("%s: %v", payload, err)
			continue
		}
		if err := builder.Discard(); err != nil {
			t.Error(err)
		}
		var value any
		if err := json.Unmarshal([]byte(payload), &value); err != nil {
			t.Error(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("the published schema refuses %s: %v", payload, err)
		}
	}
}

func TestTheMachinesPartOfAPayload(t *testing.T) {
	engine := newEngine(t, picky{}, metaservice.Config{})
	schema := resolved(t, engine.PayloadSchema())
	for payload, want := range map[string]string{
		`{"command":["a"]}`:                                 "",
		`{"command":["a"],"machine":{ "image" : "a" }}`:     "",
		`{"command":["a"],"machine":{"x":1}}`:               "malformed payload: machine.image is missing, it must be the name of an image; machine is strange, it must be something else",
		`{"command":["a",2],"machine":{"image":"a","b":1}}`: "malformed payload: command[1] is a number, it must be a string; machine.image is missing, it must be the name of an image; machine is strange, it must be something else",
	} {
		got := ""
		builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: []byte(payload)})
		if err != nil {
			got = err.Error()
		} else if err := builder.Discard(); err != nil {
			t.Error(err)
		}
		if got != want {
			t.Errorf("%s: %s", payload, got)
		}
		var value any
		if err := json.Unmarshal([]byte(payload), &value); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err == nil) != (want == "") {
			t.Errorf("%s: the published schema says %v", payload, err)
		}
	}
}

type nonsense struct{ picky }

func (nonsense) OptionsSchema() []byte { return []byte("nonsense") }

func TestAMachineWhoseSchemaIsNone(t *testing.T) {
	_, err := metaservice.NewEngine(metaservice.Config{}, &metaservice.Environment{Machine: nonsense{}})
	if err == nil || !strings.Contains(err.Error(), "machine's options") {
		t.Error(err)
	}
}

// Whatever bytes come: no panic, and what is taken is what the schema takes.
func FuzzPayload(f *testing.F) {
	for _, seed := range []string{
		`{"command":["a"],"env":{"A":"1"},"machine":{},"timeout":"1s","artifacts":["x"]}`,
		`{"command":[{}],"env":{"A":[]},"timeout":"1s1s"}`, `[`, `{"command":["\ud800"]}`, `{"a":{"b":[1e400]}}`,
	} {
		f.Add([]byte(seed))
	}
	engine, err := metaservice.NewEngine(metaservice.Config{}, &metaservice.Environment{Machine: nowhere{}})
	if err != nil {
		f.Fatal(err)
	}
	var published jsonschema.Schema
	if err := json.Unmarshal(engine.PayloadSchema(), &published); err != nil {
		f.Fatal(err)
	}
	schema, err := published.Resolve(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		builder, err := engine.NewSandboxBuilder(metaservice.SandboxOptions{Payload: data})
		if err != nil {
			if malformed, ok := errors.AsType[*ports.MalformedPayloadError](err); !ok || len(malformed.Mistakes) == 0 {
				t.Fatalf("%v", err)
			}
			return
		}
		if err := builder.Discard(); err != nil {
			t.Fatal(err)
		}
		var value any
		if err := json.Unmarshal(data, &value); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Fatal(err)
		}
	})
}

var _ metaservice.MachineWithOptions = (*metaservicetest.Machine)(nil)
