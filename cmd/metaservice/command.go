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
	words   *slog.Logger
	verbose io.Writer     // standard error if the run is to be verbose; else nil
	boot    time.Duration // for the guest's first request
}

// run is both commands: all but the machine, which machineFor makes after the command line was checked and
// before anything is started.
func (f *jobFlags) run(cmd *cobra.Command, args []string, to streams, machineFor func(setting) (ports.Machine, error)) error {
	execute, err := f.command(cmd, args)
	if err != nil {
		return err
	}
	artifacts, err := parseArtifacts(f.artifacts)
	if err != nil {
		return err
	}
	around := setting{words: newWords(to.err, f.verbose)}
	if f.verbose {
		around.verbose = to.err
	}
	machine, err := machineFor(around)
	if err != nil {
		return err
	}
	if err := f.checkTargets(artifacts); err != nil {
		return err
	}
	record, err := newRecord(to.out, f.log, around.words)
	if err != nil {
		return err
	}
	interrupts, release := catchInterrupts()
	defer release()
	j := &job{
		machine:    machine,
		execute:    execute,
		timeout:    f.timeout,
		artifacts:  artifacts,
		record:     record,
		json:       f.json,
		words:      around.words,
		say:        to.err,
		interrupts: interrupts,
	}
	if status := j.run(); status != 0 {
		return exitStatus(status)
	}
	return nil
}
