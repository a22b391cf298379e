package main

import (
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// setting is what a command's machine finds around it.
type setting struct {
	words    *slog.Logger // metaservice's own
	inner    *slog.Logger // of what it is made of: the outcome tells what matters of it
	out, say *outlet      // standard output and error
	signals  *interrupts
	verbose  io.Writer     // standard error if the run is to be verbose; else nil
	boot     time.Duration // for the machine to start, and then for its guest to call; 0 is without limit. The machine's maker sets it
}

func newSetting(to streams, verbose bool) *setting {
	signals := newInterrupts()
	s := &setting{out: newOutlet(to.out, signals), say: newOutlet(to.err, signals), signals: signals}
	s.words, s.inner = newWords(s.say, verbose), slog.New(slog.DiscardHandler)
	if verbose {
		s.inner, s.verbose = s.words, s.say
	}
	return s
}

// run is run and serve: all but the machine, which machineFor makes after the command line was checked and
// before anything is started.
func (f *jobFlags) run(cmd *cobra.Command, args []string, to streams, machineFor func(*setting) (ports.Machine, error)) error {
	execute, err := f.command(cmd, args)
	if err != nil {
		return err
	}
	artifacts, err := parseArtifacts(f.artifacts)
	if err != nil {
		return err
	}
	limits, err := parseLimits(f.limits)
	if err != nil {
		return err
	}
	around := newSetting(to, f.verbose)
	machine, err := machineFor(around)
	if err != nil {
		return err
	}
	if err := f.checkTargets(artifacts); err != nil {
		return err
	}
	record, err := newRecord(around.out, f.log, around.words)
	if err != nil {
		return err
	}
	defer around.signals.catch()()
	j := newJob(around, machine, execute, limits, record)
	j.token = domain.TokenMode(f.token)
	j.timeout, j.artifacts, j.fetching, j.json = f.timeout, artifacts, f.fetching, f.json
	if f.shell {
		record.hold()
		j.beside = newConsole(around, to, terminalWhereThereIs(to))
	}
	return over(j.run())
}

// over is what a command returns that has said all it has to say.
func over(status int) error {
	if status == 0 {
		return nil
	}
	return exitStatus(status)
}
