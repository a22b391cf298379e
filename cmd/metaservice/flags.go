package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/domain"
)

// commonFlags are the flags of every command that has a guest.
type commonFlags struct {
	env     []string
	limits  []string
	timeout time.Duration
	token   string
	verbose bool
}

func (f *commonFlags) add(cmd *cobra.Command, what string) {
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command is the command's
	flags.SortFlags = false
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set a variable for the "+what+": `NAME=VALUE`, or NAME for its value here")
	flags.DurationVar(&f.timeout, "timeout", 0, "end the "+what+" after such a `TIME` as 90s or 1h30m (default none)")
}

// addLast adds those that belong at the end of the help.
func (f *commonFlags) addLast(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.token, "token", "", "have guest-tools prove themselves: `MODE` is auto, required or off")
	flags.StringArrayVar(&f.limits, "limit", nil, "bound what the guest may do: `NAME=VALUE`, like LogBytes=9GiB")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "tell what goes on")
}

// check tells what of them can't be, as far as nobody else does.
func (f *commonFlags) check(cmd *cobra.Command) error {
	if f.timeout < 0 || f.timeout == 0 && cmd.Flags().Changed("timeout") {
		return usagef("--timeout %s: it must be more than 0", f.timeout)
	}
	if f.token == "" && cmd.Flags().Changed("token") || domain.TokenMode(f.token).Check() != nil {
		return usagef("--token %s: it must be auto, required or off", f.token)
	}
	return nil
}

// jobFlags are the flags of run and serve alike.
type jobFlags struct {
	commonFlags
	artifacts []string
	fetching  time.Duration
	log       string
	json      string
	shell     bool
}

func (f *jobFlags) add(cmd *cobra.Command) {
	f.commonFlags.add(cmd, "task")
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.artifacts, "artifact", "a", nil, "fetch a file or a folder when the task has ended: `GUEST[=HOST]`")
	flags.DurationVar(&f.fetching, "artifact-timeout", time.Hour, "give artifacts up after this `TIME`; 0 is never")
	flags.BoolVar(&f.shell, "shell", false, "open a shell beside the task; the log is shown after it")
	flags.StringVar(&f.log, "log", "", "write the task's log to this `FILE` too")
	flags.StringVar(&f.json, "json", "", "write the result for programs to this `FILE`")
	f.addLast(cmd)
}

// command is a command line's task, checked as far as that goes without a guest.
func (f *jobFlags) command(cmd *cobra.Command, args []string) (domain.Execute, error) {
	if len(args) == 0 {
		return domain.Execute{}, usagef("there is no command to run: put it after '--'")
	}
	if err := f.check(cmd); err != nil {
		return domain.Execute{}, err
	}
	if f.fetching < 0 {
		return domain.Execute{}, usagef("--artifact-timeout %s: it can't be less than 0", f.fetching)
	}
	for name, value := range map[string]string{"--log": f.log, "--json": f.json} {
		if value == "-" {
			return domain.Execute{}, usagef("%s -: standard output is the log's alone; name a file", name)
		}
	}
	for _, name := range []string{"log", "json"} {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return domain.Execute{}, usagef("--%s is empty: name a file", name)
		}
	}
	env, err := environment(f.env, os.LookupEnv)
	if err != nil {
		return domain.Execute{}, err
	}
	execute := domain.Execute{Env: env, Command: args}
	if err := execute.Check(); err != nil {
		return domain.Execute{}, usageError{err}
	}
	return execute, nil
}

// environment reads what --env says; of two with the same name the later one counts.
func environment(given []string, lookup func(string) (string, bool)) (map[string]string, error) {
	env := make(map[string]string, len(given))
	for _, text := range given {
		name, value, set := strings.Cut(text, "=")
		if name == "" {
			return nil, usagef("--env %q has no name: it must be NAME=VALUE or NAME", text)
		}
		if !set {
			if value, set = lookup(name); !set {
				return nil, usagef("--env %s: no such variable is set here; set it, or give it a value: --env %s=VALUE", name, name)
			}
		}
		env[name] = value
	}
	return env, nil
}

// checkTargets refuses what the run could only fail to write, before any task runs in vain.
func (f *jobFlags) checkTargets(artifacts []artifact) error {
	taken := make(map[string]string)
	check := func(flag, target string) error {
		absolute, err := filepath.Abs(target)
		if err != nil {
			return err
		}
		if other, twice := taken[absolute]; twice {
			return usagef("%s and %s would both be written to %q: give one of them another place", other, flag, target)
		}
		taken[absolute] = flag
		return nil
	}
	var errs []error
	if f.json != "" {
		errs = append(errs, check("--json", f.json), checkResultFile(f.json))
	}
	if f.log != "" {
		errs = append(errs, check("--log", f.log))
	}
	for _, a := range artifacts {
		errs = append(errs, check("--artifact "+a.given, a.target), checkRoom(a.target))
	}
	return errors.Join(errs...)
}
