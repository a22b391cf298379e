package main

import (
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/ports"
)

// setting is what a command's machine finds around it.
type setting struct {
	words   *slog.Logger  // metaservice's own
	inner   *slog.Logger  // of what it is made of: the outcome tells what matters of it
	say     *outlet       // standard error
	verbose io.Writer     // standard error if the run is to be verbose; else nil
	boot    time.Duration // for the guest's first request; 0 is without limit. The machine's maker sets it
}

// run is both commands: all but the machine, which machineFor makes after the command line was checked and
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
	signals := newInterrupts()
	out, say := newOutlet(to.out, signals), newOutlet(to.err, signals)
	around := &setting{words: newWords(say, f.verbose), inner: slog.New(slog.DiscardHandler), say: say}
	if f.verbose {
		around.inner, around.verbose = around.words, say
	}
	machine, err := machineFor(around)
	if err != nil {
		return err
	}
	if err := f.checkTargets(artifacts); err != nil {
		return err
	}
	record, err := newRecord(out, f.log, around.words)
	if err != nil {
		return err
	}
	defer signals.catch()()
	j := &job{
		machine:     machine,
		execute:     execute,
		timeout:     f.timeout,
		bootTimeout: around.boot,
		artifacts:   artifacts,
		fetching:    f.fetching,
		limits:      limits,
		record:      record,
		json:        f.json,
		words:       around.words,
		inner:       around.inner,
		out:         out,
		say:         say,
		interrupts:  signals,
	}
	if status := j.run(); status != 0 {
		return exitStatus(status)
	}
	return nil
}
