package metaservice_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/domain"
)

// whole is a config that sets every field, to what is fine but not the default.
func whole(t *testing.T, value reflect.Value) {
	t.Helper()
	for i := range value.NumField() {
		switch field := value.Field(i); field.Kind() {
		case reflect.Struct:
			whole(t, field)
		case reflect.String:
			field.SetString("set")
		case reflect.Int, reflect.Int64:
			field.SetInt(int64(20*time.Second) + int64(i))
		default:
			t.Fatalf("what is a %s?", field.Type())
		}
	}
}

func TestAConfigsJSON(t *testing.T) {
	var want, got metaservice.Config
	whole(t, reflect.ValueOf(&want).Elem())
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(text), `"bootTimeout":"20.000000001s"`) {
		t.Errorf("%s", text)
	}
	if text, err := json.Marshal(metaservice.Config{}); err != nil || string(text) != "{}" {
		t.Errorf("the zero Config is %s, %v", text, err)
	}
	var duration metaservice.Duration
	for _, text := range []string{`"90"`, `90`, `"soon"`} {
		if err := json.Unmarshal([]byte(text), &duration); err == nil {
			t.Errorf("%s is taken for %s", text, duration)
		}
	}
}

// A limit that is added to the domain is added to the config, or this fails.
func TestTheConfigHasEveryLimit(t *testing.T) {
	config, limits := reflect.TypeFor[metaservice.ConfigLimits](), reflect.TypeFor[domain.Limits]()
	if config.NumField() != limits.NumField() {
		t.Errorf("%d limits in the config, %d in the domain", config.NumField(), limits.NumField())
	}
	for i := range limits.NumField() {
		name := limits.Field(i).Name
		field, ok := config.FieldByName(name)
		if !ok {
			t.Errorf("the config has no %s", name)
			continue
		}
		if want := strings.ToLower(name[:1]) + name[1:] + ",omitzero"; field.Tag.Get("json") != want {
			t.Errorf("%s is %s in JSON", name, field.Tag.Get("json"))
		}
		if !field.Type.ConvertibleTo(limits.Field(i).Type) || field.Type.Kind() != limits.Field(i).Type.Kind() {
			t.Errorf("%s is a %s in the config", name, field.Type)
		}
	}
}

func TestTheConfigsSchema(t *testing.T) {
	schema := resolved(t, metaservice.NewProvider(nil).ConfigSchema())
	var check func(path string, s *jsonschema.Schema)
	check = func(path string, s *jsonschema.Schema) {
		if len(s.Required) > 0 {
			t.Errorf("%s: %v are required", path, s.Required)
		}
		for name, property := range s.Properties {
			if property.Description == "" {
				t.Errorf("%s%s has no description", path, name)
			}
			check(path+name+".", property)
		}
	}
	check("", schema.Schema())
	properties := schema.Schema().Properties
	if got := string(properties["bootTimeout"].Default); got != `"1m0s"` {
		t.Errorf("the default of bootTimeout is %s", got)
	}
	if got := string(properties["limits"].Properties["tries"].Default); got != "3" {
		t.Errorf("the default of limits.tries is %s", got)
	}
	defaults := map[string]any{}
	if err := schema.ApplyDefaults(&defaults); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(defaults)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := metaservice.NewProvider(&metaservice.Environment{Machine: nowhere{}}).NewEngine(text); err != nil {
		t.Errorf("the defaults are no config: %s: %v", text, err)
	}
}

func TestMistakesInAConfig(t *testing.T) {
	const number = "a whole number, not less than 0"
	all := "one of maxConcurrency, bootTimeout, stopTimeout, limits, guestTools, token, temporaryFolder"
	type mistakes = [][3]string // path, found, right
	for name, test := range map[string]struct {
		config   string
		defaults metaservice.Config
		want     mistakes
	}{
		"another type":   {config: "[]", want: mistakes{{"config", "an array", "an object"}}},
		"trailing data":  {config: "{}{}", want: mistakes{{"config", "followed by more", "an object, and nothing after it"}}},
		"unknown fields": {config: `{"concurrency":1,"limits":{"Tries":1}}`, want: mistakes{{"concurrency", "unknown", all}, {"limits.Tries", "unknown", "one of " + limitNames()}}},
		"in JSON": {
			config: `{"maxConcurrency":-1,"bootTimeout":60,"stopTimeout":"-1s","limits":{"tries":1.5,"stall":"x","hold":"1m","polls":99999999999999999999},"guestTools":7}`,
			want: mistakes{
				{"maxConcurrency", "-1", number}, {"bootTimeout", "a number", duration}, {"stopTimeout", `"-1s"`, duration},
				{"limits.tries", "1.5", number}, {"limits.stall", `"x"`, duration}, {"limits.polls", "99999999999999999999", number},
				{"guestTools", "a number", "a string"},
				{"limits.hold", "1m0s", "30s at most: old guests give a poll up after 35s"},
			},
		},
		"in Go": {
			defaults: metaservice.Config{MaxConcurrency: -1, StopTimeout: -1, Limits: metaservice.ConfigLimits{Hold: 2e9, Silence: 1e9, Tries: -1}, GuestTools: "a\x00"},
			want: mistakes{
				{"maxConcurrency", "-1", number}, {"stopTimeout", `"-1ns"`, duration}, {"limits.tries", "-1", number},
				{"guestTools", `"a\x00"`, "a path"},
				{"limits.silence", "1s", "2s at least, which is limits.hold"},
				{"guestTools", `"a\x00"`, "left out: this engine has a machine of its own, which starts no guest-tools here"},
			},
		},
		"in both": {
			config: `{"maxConcurrency":"1"}`, defaults: metaservice.Config{Limits: metaservice.ConfigLimits{Tries: -1}},
			want: mistakes{{"maxConcurrency", "a string", number}, {"limits.tries", "-1", number}},
		},
		"a token mode that there isn't": {
			config: `{"token":"always"}`, want: mistakes{{"token", `"always"`, "auto, required or off"}},
		},
		"a token mode that there isn't, in Go": {
			defaults: metaservice.Config{Token: "on"}, want: mistakes{{"token", `"on"`, "auto, required or off"}},
		},
		"a silence shorter than the default hold": {
			config: `{"limits":{"silence":"1s"}}`, want: mistakes{{"limits.silence", "1s", "30s at least, which is limits.hold"}},
		},
		"tools where there is a machine": {config: `{"guestTools":"/bin/guest-tools"}`, want: mistakes{
			{"guestTools", `"/bin/guest-tools"`, "left out: this engine has a machine of its own, which starts no guest-tools here"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			provider := metaservice.NewProvider(&metaservice.Environment{Machine: nowhere{}}, metaservice.WithDefaults(test.defaults))
			engine, err := provider.NewEngine([]byte(test.config))
			invalid, ok := errors.AsType[*metaservice.InvalidConfigError](err)
			if engine != nil || !ok {
				t.Fatalf("%v, %v", engine, err)
			}
			if diff := cmp.Diff(test.want, inWords(invalid.Mistakes)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			for _, mistake := range invalid.Mistakes {
				if !strings.Contains(err.Error(), mistake.String()) {
					t.Errorf("%q doesn't say %q", err, mistake)
				}
			}
		})
	}
}

func limitNames() string {
	var names []string
	for i := range reflect.TypeFor[metaservice.ConfigLimits]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[metaservice.ConfigLimits]().Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// The JSON stands over what the provider was made with, field by field.
func TestJSONOverDefaults(t *testing.T) {
	provider := metaservice.NewProvider(&metaservice.Environment{Machine: nowhere{}},
		metaservice.WithDefaults(metaservice.Config{MaxConcurrency: 2, Limits: metaservice.ConfigLimits{Hold: 2e9}}))
	for config, want := range map[string]int{"": 2, "{}": 2, `{"maxConcurrency":5}`: 5, `{"maxConcurrency":0}`: 0, `{"limits":{"silence":"2s"}}`: 2} {
		engine, err := provider.NewEngine([]byte(config))
		if err != nil {
			t.Errorf("%s: %v", config, err)
			continue
		}
		if got := engine.Capabilities(); got != (metaservice.Capabilities{MaxConcurrency: want, Proxies: true, Shells: got.Shells}) {
			t.Errorf("%s: %+v", config, got)
		}
	}
}

func TestTheProcessMachinesConfig(t *testing.T) {
	folder := t.TempDir()
	plain := filepath.Join(folder, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder)
	for name, test := range map[string]struct {
		config metaservice.Config
		says   []string
	}{
		"nowhere":        {metaservice.Config{}, []string{"guestTools is neither given, nor beside this program, nor on PATH, it must be the path"}},
		"missing":        {metaservice.Config{GuestTools: folder + "/missing"}, []string{"guestTools is", "missing"}},
		"not executable": {metaservice.Config{GuestTools: plain}, []string{"guestTools is", "not executable"}},
		"a folder":       {metaservice.Config{GuestTools: folder}, []string{"guestTools is", "is no file"}},
		"all at once": {metaservice.Config{TemporaryFolder: folder + "/none", MaxConcurrency: -1},
			[]string{"guestTools is", "temporaryFolder is no use", "none", "maxConcurrency is -1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := metaservice.NewEngine(test.config, nil)
			if _, ok := errors.AsType[*metaservice.InvalidConfigError](err); !ok {
				t.Fatal(err)
			}
			for _, says := range test.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%q doesn't say %q", err, says)
				}
			}
		})
	}
	tools := filepath.Join(folder, "guest-tools")
	if err := os.WriteFile(tools, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]metaservice.Config{
		"on PATH": {}, "given": {GuestTools: tools, TemporaryFolder: folder},
	} {
		engine, err := metaservice.NewEngine(config, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if engine.Capabilities().Isolated {
			t.Error("a process isolates nothing")
		}
		if err := engine.Dispose(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

type isolated struct{ metaservice.Machine }

func (isolated) Isolated() bool { return true }

func TestAMachineTellsWhetherItIsolates(t *testing.T) {
	if !newEngine(t, isolated{}, metaservice.Config{}).Capabilities().Isolated {
		t.Error("it does")
	}
}
