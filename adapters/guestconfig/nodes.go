package guestconfig

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hexworker/metaservice/domain"
)

// resolve follows an alias. One can't lead to another: YAML's parser has resolved that.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }

// wrong says what a value is and what it must be.
func wrong(node *yaml.Node, name, want string) error {
	return fmt.Errorf("line %d: %s must be %s, it is %s", node.Line, name, want, describe(node))
}

func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	value := domain.Quote(node.Value)
	bare := node.Value
	if value != `"`+bare+`"` { // a tag calls anything a number
		bare = value
	}
	switch node.ShortTag() {
	case "!!null":
		return "empty"
	case "!!str":
		return "the string " + value
	case "!!int", "!!float":
		return "the number " + bare
	case "!!bool":
		return "the truth value " + bare
	}
	return value + " with the tag " + domain.Quote(node.ShortTag())
}

// eachKey calls set for each key of a mapping, and allows each once.
func eachKey(node *yaml.Node, parent string, set func(name string, key, value *yaml.Node) error) error {
	lines := make(map[string]int)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolve(node.Content[i]), resolve(node.Content[i+1])
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			return wrong(key, "a key "+parent, "a string (in quotes where it looks like something else)")
		}
		if first, twice := lines[key.Value]; twice {
			return fmt.Errorf("line %d: the key %s is there twice, first in line %d", key.Line, domain.Quote(key.Value), first)
		}
		lines[key.Value] = key.Line
		if err := set(key.Value, key, value); err != nil {
			return err
		}
	}
	return nil
}

// text is a string. Numbers and truth values aren't taken for one: YAML reads 0755, 1e3 and yes in its
// own way, and whoever wrote them would get something else.
func text(name string, node *yaml.Node) (string, error) {
	switch {
	case isNull(node):
		return "", nil
	case node.Kind != yaml.ScalarNode:
		return "", wrong(node, name, "a string")
	case node.ShortTag() != "!!str":
		return "", wrong(node, name, "a string, in quotes: "+strconv.Quote(node.Value))
	case strings.IndexByte(node.Value, 0) >= 0:
		return "", wrong(node, name, "a string without NUL bytes")
	}
	return node.Value, nil
}

// user is a name, or a number as the system knows it.
func user(name string, node *yaml.Node) (string, error) {
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!int" {
		return text(name, node)
	}
	if _, err := strconv.ParseUint(node.Value, 10, 32); err != nil {
		return "", wrong(node, name, "a name, or a decimal number such as 1000")
	}
	return node.Value, nil
}

func flag(name string, node *yaml.Node) (bool, error) {
	var value bool
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!bool" || node.Decode(&value) != nil {
		return false, wrong(node, name, "true or false")
	}
	return value, nil
}

func list(name string, node *yaml.Node) ([]string, error) {
	if isNull(node) {
		return nil, nil
	}
	if node.Kind != yaml.SequenceNode {
		return nil, wrong(node, name, `a list of strings, such as ["/bin/sh", "-c"]`)
	}
	values := make([]string, 0, len(node.Content))
	for i, entry := range node.Content {
		entry = resolve(entry)
		element := fmt.Sprintf("%s[%d]", name, i)
		if isNull(entry) {
			return nil, wrong(entry, element, `a string; an empty one is ""`)
		}
		value, err := text(element, entry)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

func mapping(name string, node *yaml.Node) (map[string]string, error) {
	if isNull(node) {
		return nil, nil
	}
	if node.Kind != yaml.MappingNode {
		return nil, wrong(node, name, "a mapping of names to strings")
	}
	values := make(map[string]string, len(node.Content)/2)
	err := eachKey(node, "of "+name, func(key string, _, value *yaml.Node) (err error) {
		if isNull(value) {
			return wrong(value, name+"."+key, `a string; an empty one is ""`)
		}
		values[key], err = text(name+"."+key, value)
		return err
	})
	return values, err
}
