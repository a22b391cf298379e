package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/hexworker/metaservice/adapters/wire"
)

const usage = `usage: guest-tools [run] [--host ADDRESS] [--token-file FILE] [--config FILE]
       guest-tools post-log [--host ADDRESS] [--token-file FILE] FILE|-
       guest-tools --help | --version

run        ask the host for the task, run it, and serve the host until a signal
post-log   send a file, or the standard input, into the log of the host's task

  --host ADDRESS   where the host is (default ` + wire.DefaultHost + `): ADDRESS, HOST:PORT,
                   [IPV6]:PORT, http://HOST:PORT or unix:/PATH
  --token-file FILE
                   the token that the host demands of these tools (default what
                   a virtual machine was given, if it was given one)
  --config FILE    a YAML file with any of the keys entrypoint, env, shell, user,
                   workdir and tty
  --help           this text
  --version        the version
`

type command string

const (
	commandRun     command = "run"
	commandPostLog command = "post-log"
	commandHelp    command = "--help"
	commandVersion command = "--version"
)

// invocation is what the command line asks for.
type invocation struct {
	command command
	host    string
	token   string // the file that holds it
	config  string
	file    string // of post-log; "-" is the standard input
}

// parse reads the command line. Flags may stand before the command and after it.
func parse(args []string) (invocation, error) {
	in := invocation{command: commandRun}
	var help, version bool
	flags := flag.NewFlagSet("guest-tools", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&in.host, "host", wire.DefaultHost, "")
	flags.StringVar(&in.token, "token-file", "", "")
	flags.StringVar(&in.config, "config", "", "")
	flags.BoolVar(&help, "help", false, "")
	flags.BoolVar(&help, "h", false, "")
	flags.BoolVar(&version, "version", false, "")
	if err := flags.Parse(args); err != nil {
		return invocation{}, err
	}
	rest := flags.Args()
	if len(rest) > 0 && (rest[0] == string(commandRun) || rest[0] == string(commandPostLog)) {
		in.command = command(rest[0])
		if err := flags.Parse(rest[1:]); err != nil {
			return invocation{}, err
		}
		rest = flags.Args()
	}
	switch {
	case help:
		return invocation{command: commandHelp}, nil
	case version:
		return invocation{command: commandVersion}, nil
	case in.host == "":
		return invocation{}, errors.New("--host is empty: leave it out for " + wire.DefaultHost)
	case in.token == "" && isSet(flags, "token-file"):
		return invocation{}, errors.New("--token-file is empty: leave it out where there is no token")
	case in.command == commandPostLog:
		return in.postLog(rest)
	case len(rest) > 0:
		return invocation{}, fmt.Errorf("there is no command %q: it must be run, post-log, or none", rest[0])
	}
	return in, nil
}

func isSet(flags *flag.FlagSet, name string) (set bool) {
	flags.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

func (in invocation) postLog(rest []string) (invocation, error) {
	switch {
	case in.config != "":
		return invocation{}, errors.New("post-log needs no --config")
	case len(rest) != 1 || rest[0] == "":
		return invocation{}, fmt.Errorf("post-log takes one file, or - for the standard input: there are %d", len(rest))
	}
	in.file = rest[0]
	return in, nil
}

// version is set when a release is linked: -ldflags "-X main.version=1.2.3".
var version string

// buildVersion is the version, or what else is known of what this was built from.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return "devel"
}
