package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
)

// keeper is the task of a guest that is there for a shell alone: it does nothing, for as long as POSIX lets
// sleep do that. In a guest without sleep it fails at once, which doesn't matter: a task that has ended
// leaves its guest to the shell that is open.
var keeper = []string{"sleep", "2147483647"}

// shellFlags are the flags of shell.
type shellFlags struct {
	commonFlags
	user, dir  string
	tty, noTTY bool
	noStdin    bool
}

func shellCommand(to streams) *cobra.Command {
	var flags shellFlags
	var guest guestFlags
	cmd := &cobra.Command{
		Use:   "shell [flags] [-- COMMAND [ARGUMENT...]]",
		Short: "Open a shell in a guest that is started for it",
		Long: `Start a guest and run a command in it with this terminal; without a
command, the guest's own shell. Where standard input or output is no terminal, the command
gets none either, and its streams are passed on byte for byte. Its exit status is this
command's, and the guest ends with it. Ctrl-] three times within a second gives a shell up
that doesn't answer.`,
		Example: `  metaservice shell
  metaservice shell -- tar c /etc | tar x`,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := flags.spec(cmd, args, to)
			if err != nil {
				return err
			}
			limits, err := parseLimits(flags.limits)
			if err != nil {
				return err
			}
			around := newSetting(to, flags.verbose)
			machine, err := guest.machine(around)
			if err != nil {
				return err
			}
			log := io.Discard // the keeper has none
			if around.verbose != nil {
				log = around.verbose
			}
			record, err := newRecord(log, "", around.words)
			if err != nil {
				return err
			}
			defer around.signals.catch()()
			j := newJob(around, machine, domain.Execute{Command: keeper}, limits, record)
			j.token = domain.TokenMode(flags.token)
			return over(j.runShell(newConsole(around, to, spec)))
		},
	}
	flags.add(cmd)
	guest.add(cmd)
	return cmd
}

func (f *shellFlags) add(cmd *cobra.Command) {
	f.commonFlags.add(cmd, "shell")
	flags := cmd.Flags()
	flags.StringVarP(&f.user, "user", "u", "", "run it as this user of the guest: a `NAME`, a uid or uid:gid")
	flags.StringVarP(&f.dir, "workdir", "w", "", "begin in this `FOLDER` of the guest")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give it a terminal, even if there is none here")
	flags.BoolVarP(&f.noTTY, "no-tty", "T", false, "give it no terminal, but three pipes")
	flags.BoolVarP(&f.noStdin, "no-stdin", "n", false, "leave its standard input empty")
	f.addLast(cmd)
}

// spec is a command line's shell, checked as far as that goes without a guest.
func (f *shellFlags) spec(cmd *cobra.Command, args []string, to streams) (domain.ShellSpec, error) {
	if err := f.check(cmd); err != nil {
		return domain.ShellSpec{}, err
	}
	if f.tty && f.noTTY {
		return domain.ShellSpec{}, usagef("--tty and --no-tty can't be both")
	}
	for _, name := range []string{"user", "workdir"} {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return domain.ShellSpec{}, usagef("--%s is empty", name)
		}
	}
	env, err := environment(f.env, os.LookupEnv)
	if err != nil {
		return domain.ShellSpec{}, err
	}
	spec := terminalWhereThereIs(to)
	spec.TTY = (spec.TTY || f.tty) && !f.noTTY
	spec.Command, spec.Env, spec.User, spec.Dir = args, env, f.user, f.dir
	spec.Timeout, spec.NoStdin = f.timeout, f.noStdin
	if err := spec.Check(); err != nil {
		return domain.ShellSpec{}, usageError{err}
	}
	return spec, nil
}

// terminalWhereThereIs is the default shell, with a terminal if there is one at both ends here.
func terminalWhereThereIs(to streams) domain.ShellSpec {
	return domain.ShellSpec{TTY: isTerminal(to.in) && isTerminal(to.out)}
}

// runShell starts a guest for a shell alone, and leaves nothing behind. It returns the exit status.
func (j *job) runShell(c *console) int {
	status, err := j.shellAlone(c)
	if signal := j.interrupts.came(); signal != 0 {
		status, err = exitSignal+int(signal), errors.Join(fmt.Errorf("ended by %s", signalName(signal)), abnormal(err))
	}
	if err != nil {
		j.words.Error(err.Error())
	}
	return status
}

func (j *job) shellAlone(c *console) (status int, why error) {
	engine, sandbox, err := j.start()
	if err != nil {
		return exitOurs, err
	}
	defer func() {
		if err := j.stop(engine, sandbox); err != nil {
			status, why = failUnless(status), errors.Join(why, fmt.Errorf("the machine did not end as it should: %w", err))
		}
	}()
	session, err := c.open(sandbox)
	if err != nil {
		return exitOurs, j.whyNoShell(sandbox.Task(), err)
	}
	return c.attach(session).verdict()
}

// whyNoShell tells of a shell that came too late what its guest died of.
func (j *job) whyNoShell(task *host.Task, err error) error {
	if !errors.Is(err, domain.ErrSandboxTerminated) {
		return err
	}
	ctx, cancel := until(j.interrupts.first)
	defer cancel()
	outcome, waitErr := task.Wait(ctx)
	switch {
	case waitErr != nil:
		return waitErr
	case outcome.Err != nil:
		return outcome.Err
	}
	return fmt.Errorf("the guest's task, which only waits, ended before there was a shell: %s", outcome.Status)
}

// shellVerdict is the exit status of a shell that has ended, and what there is to say about it.
func shellVerdict(spec domain.ShellSpec, result domain.Result) (status int, why error) {
	report := result.Report
	switch {
	case result.Success && (report == nil || report.Message == ""):
		return 0, nil
	case result.Success: // what it started goes on writing, which nobody waits for
		return 0, fmt.Errorf("the shell ended: %s", report)
	case report == nil: // a guest of version 1
		return 1, nil
	case report.Reason == domain.ReasonTimeout:
		return exitTimedOut, fmt.Errorf("the shell's time is over: it had %s", spec.Timeout)
	case report.ExitCode == 0:
		return exitOurs, fmt.Errorf("the guest calls the shell a failure: %s", report)
	case report.Reason != domain.ReasonExited && report.Reason != domain.ReasonStartFailed:
		return exitCode(report.ExitCode), fmt.Errorf("the shell ended: %s", report)
	}
	return exitCode(report.ExitCode), nil
}
