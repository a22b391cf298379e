package metaservice

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

type mistake = ports.PayloadMistake

// pattern is a rule for strings, and its words.
type pattern struct {
	regexp *regexp.Regexp
	found  string // what a string is that breaks it; empty shows the string
	right  string
}

// The patterns of the schemas.
const (
	patternText     = `^[^\x00]*$`
	patternPath     = `^[^\x00]+$`
	patternName     = `^[^=\x00]+$`
	patternDuration = `^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
	patternToken    = `^(auto|required|off)$`
)

var patterns = map[string]pattern{
	patternText:     {regexp.MustCompile(patternText), "a string with a NUL character", "a string without one"},
	patternPath:     {regexp.MustCompile(patternPath), "no path", "a string that isn't empty, without a NUL character"},
	patternName:     {regexp.MustCompile(patternName), "no name of a variable", "named without '=' and NUL characters, and not by nothing"},
	patternDuration: {regexp.MustCompile(patternDuration), "", `a duration such as "90s" or "1h30m", not less than 0`},
	patternToken:    {regexp.MustCompile(patternToken), "", "auto, required or off"},
}

// schemaFor is the schema of a Go type. Whatever may be left out may not be null instead, and no number
// is less than 0.
func schemaFor[T any]() *jsonschema.Schema {
	s, err := jsonschema.For[T](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[Duration]():        {Type: "string", Pattern: patternDuration},
		reflect.TypeFor[TokenMode]():       {Type: "string", Pattern: patternToken},
		reflect.TypeFor[json.RawMessage](): {Type: "object"},
	}})
	if err != nil {
		panic(err) // our own types have schemas
	}
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	strict(s)
	return s
}

func strict(s *jsonschema.Schema) {
	if len(s.Types) > 0 {
		s.Type, s.Types = s.Types[len(s.Types)-1], nil // the first is null
	}
	switch s.Type {
	case "integer":
		s.Minimum = jsonschema.Ptr(0.0)
	case "array":
		strict(s.Items)
	}
	for _, property := range s.Properties {
		strict(property)
	}
}

// maxMistakes is how many are told one by one.
const maxMistakes = 100

// decodeChecked decodes one JSON text, checks it against a schema, and returns every mistake in it.
// What is right in it is decoded even where there are mistakes. The schemas are our own: the checks know
// what those use.
func decodeChecked(data []byte, whole string, s *jsonschema.Schema, into any) []mistake {
	if wrong := checkSyntax(data, whole, describe(s)); wrong != nil {
		return []mistake{*wrong}
	}
	c := checker{whole: whole, in: newDecoder(data)}
	clean, ok := c.value("", s)
	if c.more > 0 {
		c.mistakes = append(c.mistakes, mistake{Path: whole, Found: fmt.Sprintf("wrong in %d more places", c.more), Right: "right in all of them"})
	}
	if !ok {
		return c.mistakes
	}
	text, err := json.Marshal(clean)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil { // a number too large for an int of 32 bits
		c.wrong("", err.Error(), "smaller")
	}
	return c.mistakes
}

func newDecoder(data []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewReader(data), jsontext.AllowDuplicateNames(true)) // those are told by the checker
}

// checkSyntax tells whether data is one JSON text and nothing more.
func checkSyntax(data []byte, whole, right string) *mistake {
	in := newDecoder(data)
	_, err := in.ReadValue()
	switch {
	case errors.Is(err, io.EOF) && len(bytes.TrimSpace(data)) == 0:
		return &mistake{Path: whole, Found: "empty", Right: right}
	case err != nil:
		return &mistake{Path: whole, Found: "no JSON (" + domain.Cut(err.Error()) + ")", Right: right}
	}
	if _, err := in.ReadToken(); !errors.Is(err, io.EOF) {
		return &mistake{Path: whole, Found: "followed by more", Right: right + ", and nothing after it"}
	}
	return nil
}

// checker walks a JSON text along its schema. It never shows what it found but where that can't be a
// secret.
type checker struct {
	whole    string
	in       *jsontext.Decoder // of a text whose syntax is right
	mistakes []mistake
	more     int // than are told
}

func (c *checker) wrong(path, found, right string) {
	if len(c.mistakes) >= maxMistakes {
		c.more++
		return
	}
	if path == "" {
		path = c.whole
	}
	c.mistakes = append(c.mistakes, mistake{Path: path, Found: found, Right: right})
}

// value checks the next value. What it returns is as much of it as is right, for json.Marshal; false is
// nothing.
func (c *checker) value(path string, s *jsonschema.Schema) (any, bool) {
	kind := c.in.PeekKind()
	name := kinds[kind]
	switch {
	case name != s.Type && !(name == "number" && s.Type == "integer"):
		c.wrong(path, found[kind], describe(s))
		c.skip()
		return nil, false
	case name == "object" && (s.Properties != nil || s.AdditionalProperties != nil):
		return c.object(path, s), true
	case name == "array":
		return c.array(path, s)
	}
	raw, _ := c.in.ReadValue()
	raw = raw.Clone()
	_ = raw.Compact() // it is right
	text := ""
	if name == "string" {
		_ = json.Unmarshal(raw, &text)
	}
	if wrong := leaf(raw, text, s); wrong != "" {
		c.wrong(path, wrong, describe(s))
		return nil, false
	}
	return json.RawMessage(raw), true
}

func (c *checker) skip() { _ = c.in.SkipValue() }

// leaf tells what is wrong with a value that holds no others.
func leaf(raw jsontext.Value, text string, s *jsonschema.Schema) (wrong string) {
	switch s.Type {
	case "integer":
		n, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil || s.Minimum != nil && float64(n) < *s.Minimum {
			return domain.Cut(string(raw))
		}
	case "string":
		p, ok := patterns[s.Pattern]
		if !ok || p.regexp.MatchString(text) && (s.Pattern != patternDuration || new(Duration).UnmarshalText([]byte(text)) == nil) {
			return ""
		}
		if p.found == "" {
			return domain.Quote(text)
		}
		return p.found
	}
	return ""
}

func (c *checker) object(path string, s *jsonschema.Schema) map[string]any {
	clean, seen := make(map[string]any), make(map[string]bool)
	_, _ = c.in.ReadToken()
	for c.in.PeekKind() != '}' {
		token, err := c.in.ReadToken()
		if err != nil {
			break // the syntax is right
		}
		name := token.String()
		inner, at := s.Properties[name], field(path, name)
		if inner == nil && s.Properties == nil {
			inner, at = s.AdditionalProperties, path+"["+domain.Quote(name)+"]"
		}
		if seen[name] {
			c.wrong(at, "there twice", "there once")
			c.skip()
			continue
		}
		seen[name] = true
		if inner == nil {
			c.wrong(at, "unknown", "one of "+strings.Join(s.PropertyOrder, ", "))
			c.skip()
			continue
		}
		if names := s.PropertyNames; names != nil && !patterns[names.Pattern].regexp.MatchString(name) {
			c.wrong(at, patterns[names.Pattern].found, patterns[names.Pattern].right)
			c.skip()
			continue
		}
		if value, ok := c.value(at, inner); ok {
			clean[name] = value
		}
	}
	_, _ = c.in.ReadToken()
	for _, name := range s.Required {
		if !seen[name] {
			c.wrong(field(path, name), "missing", describe(s.Properties[name]))
		}
	}
	return clean
}

func (c *checker) array(path string, s *jsonschema.Schema) (any, bool) {
	clean, whole := []any{}, true
	_, _ = c.in.ReadToken()
	for i := 0; c.in.PeekKind() != ']'; i++ {
		value, ok := c.value(fmt.Sprintf("%s[%d]", path, i), s.Items)
		clean = append(clean, value)
		whole = whole && ok
	}
	_, _ = c.in.ReadToken()
	if s.MinItems != nil && len(clean) < *s.MinItems {
		c.wrong(path, "empty", describe(s))
		return nil, false
	}
	return clean, whole
}

// field is the path of an object's field.
func field(path, name string) string {
	if !plainName.MatchString(name) {
		return path + "[" + domain.Quote(name) + "]"
	}
	return strings.TrimPrefix(path+"."+name, ".")
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

var kinds = map[jsontext.Kind]string{
	'n': "null", 't': "boolean", 'f': "boolean", '"': "string", '0': "number", '{': "object", '[': "array",
}

var found = map[jsontext.Kind]string{
	'n': "null", 't': "a boolean", 'f': "a boolean", '"': "a string", '0': "a number", '{': "an object", '[': "an array",
}

// describe tells what a schema takes.
func describe(s *jsonschema.Schema) string {
	switch s.Type {
	case "integer":
		return "a whole number, not less than 0"
	case "array":
		text := "an array of strings"
		if s.MinItems != nil {
			text += ", with one at least"
		}
		return text
	case "object":
		if s.Properties == nil && s.AdditionalProperties != nil {
			return "an object of strings"
		}
		return "an object"
	}
	if slices.Contains([]string{patternDuration, patternPath, patternToken}, s.Pattern) {
		return patterns[s.Pattern].right
	}
	return "a string"
}
