package metaservice

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/hexworker/metaservice/domain"
)

// Defaults of a Config.
const (
	DefaultBootTimeout = 60 * time.Second
	DefaultStopTimeout = 10 * time.Second
)

// Config is an engine's configuration. The zero Config works: a zero field means its default.
type Config struct {
	MaxConcurrency  int          `json:"maxConcurrency,omitzero" jsonschema:"How many sandboxes there may be at once. 0, the default, is any number."`
	BootTimeout     Duration     `json:"bootTimeout,omitzero" jsonschema:"How long a machine may take to start, and then its guest to call. The default is 60s."`
	StopTimeout     Duration     `json:"stopTimeout,omitzero" jsonschema:"How long a guest may take to end by itself before it is killed. The default is 10s."`
	Limits          ConfigLimits `json:"limits,omitzero" jsonschema:"What a guest can make its host do, at most."`
	GuestTools      string       `json:"guestTools,omitzero" jsonschema:"The path of the program guest-tools, for the process machine. By default it is looked for beside the host's program, then on PATH."`
	Token           TokenMode    `json:"token,omitzero" jsonschema:"Whether a guest's tools must prove themselves: auto, the default, where the machine and the tools both can; required, or the guest gets nothing; off."`
	TemporaryFolder string       `json:"temporaryFolder,omitzero" jsonschema:"Where artifacts are kept until they are closed, and the process machine's guests have their folders. The default is the system's folder for temporary files."`
}

// ConfigLimits is Limits with JSON names: 0 means the default there too.
type ConfigLimits struct {
	ArtifactBytes int64    `json:"artifactBytes,omitzero" jsonschema:"Bytes of one artifact."`
	FolderBytes   int64    `json:"folderBytes,omitzero" jsonschema:"Bytes of all files of one folder that is brought out."`
	ListEntries   int64    `json:"listEntries,omitzero" jsonschema:"Names in one folder's list."`
	ListBytes     int64    `json:"listBytes,omitzero" jsonschema:"Bytes of one folder's list on the wire."`
	LogBytes      int64    `json:"logBytes,omitzero" jsonschema:"Bytes of a task's log. What comes after is dropped, and told in the result."`
	Stall         Duration `json:"stall,omitzero" jsonschema:"For how long a body may bring less than the floor. It does not bind logs."`
	Floor         int64    `json:"floor,omitzero" jsonschema:"Bytes a second, averaged over the stall."`
	Offer         Duration `json:"offer,omitzero" jsonschema:"How long an action waits for a poll to take it."`
	Reply         Duration `json:"reply,omitzero" jsonschema:"How long a guest may take to answer an action."`
	Hold          Duration `json:"hold,omitzero" jsonschema:"How long a poll with nothing to do is held. 30s is the most: old guests allow no more."`
	Silence       Duration `json:"silence,omitzero" jsonschema:"How long a guest may have neither a poll nor a request open until it is lost. It is no shorter than the hold."`
	LogEnd        Duration `json:"logEnd,omitzero" jsonschema:"How long open log bodies may take to end once the task has its result."`
	Actions       int      `json:"actions,omitzero" jsonschema:"Actions that wait at once, for a poll or a reply."`
	Polls         int      `json:"polls,omitzero" jsonschema:"Polls that are parked at once. One more ends the oldest."`
	Logs          int      `json:"logs,omitzero" jsonschema:"Log bodies that are open at once. One more is refused, and may be tried again."`
	Tries         int      `json:"tries,omitzero" jsonschema:"Tries of one action."`
	Shells        int      `json:"shells,omitzero" jsonschema:"Shells that are open at once. One more is refused."`
	ShellBytes    int64    `json:"shellBytes,omitzero" jsonschema:"Bytes that the shells of one guest may hold together of what it has sent and nobody has read. Each output has 64 KiB all the same."`
	Requests      int      `json:"requests,omitzero" jsonschema:"Requests of a guest in a second. What the host asked for does not count. One more is refused for now, and its connection closed."`
	RequestBurst  int      `json:"requestBurst,omitzero" jsonschema:"Requests of a guest at once, after a rest."`
	DiskFree      int64    `json:"diskFree,omitzero" jsonschema:"Bytes that must stay free where artifacts are kept. The default is 1 GiB, or a twentieth of the disk where that is less."`
}

// limits are the same in the domain's own type, whose fields have the same names.
func (l ConfigLimits) limits() Limits {
	var limits Limits
	to, from := reflect.ValueOf(&limits).Elem(), reflect.ValueOf(l)
	for i := range from.NumField() {
		field := to.FieldByName(from.Type().Field(i).Name)
		field.Set(from.Field(i).Convert(field.Type()))
	}
	return limits
}

// configLimits is the inverse of limits.
func configLimits(limits Limits) ConfigLimits {
	var l ConfigLimits
	to, from := reflect.ValueOf(&l).Elem(), reflect.ValueOf(limits)
	for i := range to.NumField() {
		field := to.Field(i)
		field.Set(from.FieldByName(to.Type().Field(i).Name).Convert(field.Type()))
	}
	return l
}

// Duration is a time.Duration that is written as Go writes it, such as "90s" or "1h30m".
type Duration time.Duration

// String is the duration as time.Duration has it.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is String; JSON has it as a string.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes what time.ParseDuration takes.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(parsed)
	return nil
}

// Mistake is one thing that is wrong with a payload or a config: where, what was found, and what would
// be right.
type Mistake = mistake

// InvalidConfigError is a config that no engine can be made of.
type InvalidConfigError struct {
	Mistakes []Mistake // at least one
}

func (e *InvalidConfigError) Error() string {
	texts := make([]string, len(e.Mistakes))
	for i, mistake := range e.Mistakes {
		texts[i] = mistake.String()
	}
	return "invalid config: " + strings.Join(texts, "; ")
}

// configSchema is the schema of a Config, with the defaults.
var configSchema = func() *jsonschema.Schema {
	s := schemaFor[Config]()
	limits := domain.Defaults()
	limits.DiskFree = 0 // its default is no number: whoever filled that in would get more than the default
	setDefaults(s, Config{
		BootTimeout: Duration(DefaultBootTimeout), StopTimeout: Duration(DefaultStopTimeout), Token: TokenAuto,
		Limits: configLimits(limits),
	})
	s.Title = "The configuration of a metaservice engine"
	return s
}()

// setDefaults notes the fields of a value as the defaults of its schema.
func setDefaults(s *jsonschema.Schema, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // a Config can be written
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return // no object, and so no fields
	}
	for name, field := range fields {
		if inner := s.Properties[name]; inner.Properties != nil {
			setDefaults(inner, field)
		} else {
			inner.Default = field
		}
	}
}

// decodeConfig reads JSON over the defaults, as far as it can be read, and tells what is wrong with it.
func decodeConfig(data []byte, config Config) (Config, []Mistake) {
	if len(data) == 0 {
		return config, nil
	}
	mistakes := decodeChecked(data, "config", configSchema, &config)
	return config, mistakes
}

// check tells all that is wrong with a config, whichever way it was made.
func (c Config) check() []Mistake {
	text, err := json.Marshal(c)
	if err != nil {
		return []Mistake{{Path: "config", Found: err.Error(), Right: "a Config that can be written as JSON"}}
	}
	mistakes := decodeChecked(text, "config", configSchema, new(Config))
	for _, path := range []struct{ name, value string }{
		{"guestTools", c.GuestTools}, {"temporaryFolder", c.TemporaryFolder},
	} {
		if strings.ContainsFunc(path.value, unicode.IsControl) || !utf8.ValidString(path.value) {
			mistakes = append(mistakes, Mistake{Path: path.name, Found: domain.Quote(path.value), Right: "a path"})
		}
	}
	return append(mistakes, c.Limits.check()...)
}

// check tells what is wrong with limits that are fine each by itself.
func (l ConfigLimits) check() []Mistake {
	limits := l.limits()
	if limits.Hold < 0 || limits.Silence < 0 { // not fine by themselves
		return nil
	}
	defaults := domain.Defaults()
	hold, silence := limits.Hold, limits.Silence
	if hold == 0 {
		hold = defaults.Hold
	}
	if silence == 0 {
		silence = defaults.Silence
	}
	var mistakes []Mistake
	if hold > domain.MaxHold {
		mistakes = append(mistakes, Mistake{Path: "limits.hold", Found: hold.String(),
			Right: fmt.Sprintf("%s at most: old guests give a poll up after 35s", domain.MaxHold)})
	}
	if silence < min(hold, domain.MaxHold) {
		mistakes = append(mistakes, Mistake{Path: "limits.silence", Found: silence.String(),
			Right: fmt.Sprintf("%s at least, which is limits.hold", min(hold, domain.MaxHold))})
	}
	return mistakes
}
