// Command metaservice runs one task in a guest from a terminal: its log comes live on standard output,
// its files come out when it has ended, and its exit status is the task's own. See docs/cli.md.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/adapters/processes"
)

// Exit statuses that are metaservice's own, as env, timeout and their like have them.
const (
	exitTimedOut = 124
	exitOurs     = 125 // a failure that isn't the task's
	exitSignal   = 128 // and the signal's number
)

// streams are metaservice's own: the task's log goes to out, its own words to err. Only a shell reads in.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	processes.HideInherited()
	if len(os.Args) > 1 && os.Args[1] == shimCommand {
		os.Exit(processes.ShimMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == guardCommand {
		os.Exit(guardMain())
	}
	catchPipes()
	os.Exit(execute(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// execute runs a command line, and returns the exit status.
func execute(args []string, to streams) int {
	root := rootCommand(to)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	fmt.Fprintln(to.err, "metaservice: "+plain(err.Error()))
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(to.err, "See '%s --help'.\n", cmd.CommandPath())
	}
	return exitOurs
}

// exitStatus ends a command whose words are all said.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// usageError is a command line that can't be.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func rootCommand(to streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "metaservice COMMAND",
		Short: "Run a task or a shell in a guest: its output, its files and its exit status come out",
		Example: `  metaservice run --artifact hello.txt -- sh -c 'echo hello | tee hello.txt'
  metaservice serve --listen 127.0.0.1:8080 -- uname -a
  metaservice shell`,
		Version:               versions(),
		DisableFlagsInUseLine: true,
		Args:                  cobra.ArbitraryArgs,
		SilenceErrors:         true,
		SilenceUsage:          true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("say what to do: run, shell, serve, image, limits or version")
			}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usagef("there is no command %q, did you mean %q?", args[0], near[0])
			}
			return usagef("there is no command %q: it must be run, shell, serve, image, limits or version", args[0])
		},
	}
	root.SetOut(to.out)
	root.SetErr(to.err)
	root.SetUsageTemplate(usage)
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Use: "help", Hidden: true, Args: cobra.ArbitraryArgs,
		Run: func(cmd *cobra.Command, args []string) {
			if found, _, err := root.Find(args); err == nil {
				cmd = found
			}
			cmd.Help()
		}})
	root.AddCommand(runCommand(to), serveCommand(to), shellCommand(to), imageCommand(to), limitsCommand(to), versionCommand(to))
	return root
}

// usage is the help of every command.
const usage = `Usage:
  {{.UseLine}}
{{- if .HasAvailableSubCommands}}

Commands:
{{- range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}
{{- if .HasExample}}

Example:
{{.Example}}{{end}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{- if .HasAvailableSubCommands}}

Exit status: the task's own; 124 when its time was over; 125 for a failure that isn't the task's;
130 after Ctrl-C.
{{- end}}
`
