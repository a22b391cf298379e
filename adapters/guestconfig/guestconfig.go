// Package guestconfig reads the configuration of the guest's tools: a YAML file with the ancestor's
// keys, baked into an image by whoever made that. It is read strictly, since nobody watches a guest
// start: whatever can't be meant so is an error that names the key, the line, and what would be right.
package guestconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hexworker/metaservice/domain"
)

// Config is what the file says. A key that isn't there leaves its field zero, but for TTY.
type Config struct {
	Entrypoint []string          // put before each task's command
	Env        map[string]string // for every task
	Shell      []string          // what a shell is where the host doesn't say
	User       string            // who runs the task: a name or a number
	Workdir    string            // where the task starts
	TTY        bool              // whether the task gets a terminal; true unless the file says no
}

// ErrInvalidConfig is a file that can't be taken.
var ErrInvalidConfig = errors.New("invalid configuration")

// maxSize bounds the file: nothing of it is large.
const maxSize = 1 << 20

// Default is the configuration where there is no file.
func Default() Config { return Config{TTY: true} }

// Read reads the file.
func Read(path string) (Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("%w: the file can't be opened: %w", ErrInvalidConfig, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return Config{}, fmt.Errorf("%w: the file can't be read: %w", ErrInvalidConfig, err)
	}
	if len(data) > maxSize {
		return Config{}, fmt.Errorf("%w: %s has more than %d bytes, which no configuration needs", ErrInvalidConfig, path, maxSize)
	}
	config, err := Parse(data)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %s: %w", ErrInvalidConfig, path, err)
	}
	return config, nil
}

// keys are the keys there are, in the order in which they are told.
var keys = []string{"entrypoint", "env", "shell", "user", "workdir", "tty"}

// Parse takes a file's content.
func Parse(data []byte) (Config, error) {
	config := Default()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	switch err := decoder.Decode(&document); {
	case err == io.EOF:
		return config, nil // an empty file
	case err != nil:
		return Config{}, fmt.Errorf("this is no YAML: %w", err)
	}
	var more yaml.Node
	if err := decoder.Decode(&more); err != io.EOF {
		return Config{}, errors.New("there is more than one YAML document, it must be one")
	}
	root := resolve(document.Content[0])
	if isNull(root) {
		return config, nil
	}
	if root.Kind != yaml.MappingNode {
		return Config{}, wrong(root, "the file", "a mapping of keys to values")
	}
	if err := eachKey(root, "", config.set); err != nil {
		return Config{}, err
	}
	if err := (domain.Execute{Env: config.Env, Command: config.Entrypoint}).Check(); err != nil {
		return Config{}, fmt.Errorf("env or entrypoint: %w", err)
	}
	return config, nil
}

// set takes one key of the file.
func (c *Config) set(name string, key, value *yaml.Node) (err error) {
	switch name {
	case "entrypoint":
		c.Entrypoint, err = list(name, value)
	case "env":
		c.Env, err = mapping(name, value)
	case "shell":
		c.Shell, err = list(name, value)
	case "user":
		c.User, err = user(name, value)
	case "workdir":
		c.Workdir, err = text(name, value)
	case "tty":
		c.TTY, err = flag(name, value)
	default:
		return fmt.Errorf("line %d: there is no key %s; the keys are %s", key.Line, domain.Quote(name), strings.Join(keys, ", "))
	}
	return err
}
