// Command guest-tools is what runs in a guest: it asks the host what to run, runs it, streams its output
// out, reports its result, and answers what the host asks for. docs/guest-tools.md is its manual.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/hexworker/metaservice/adapters/guestinit"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/processes"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// shimCommand is the hidden subcommand under which this program holds the processes of a task.
const shimCommand = "tree-shim"

func main() {
	if guestinit.Wanted() {
		guestinit.Main()
	}
	processes.HideInherited()
	if len(os.Args) > 1 && os.Args[1] == shimCommand {
		os.Exit(processes.ShimMain(os.Args[2:]))
	}
	os.Exit(program{
		args:   os.Args[1:],
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
	}.main())
}

// program is one run of guest-tools.
type program struct {
	args   []string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

func (p program) main() int {
	invocation, err := parse(p.args)
	if err != nil {
		fmt.Fprintf(p.stderr, "guest-tools: %v\n\n%s", err, usage)
		return exitUsage
	}
	logger := slog.New(slog.NewTextHandler(p.stderr, nil))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var hurry func()
	switch invocation.command {
	case commandHelp:
		fmt.Fprint(p.stdout, usage)
		return exitOK
	case commandVersion:
		fmt.Fprintf(p.stdout, "guest-tools %s\n", buildVersion())
		return exitOK
	case commandPostLog:
		release := onSignals(cancel, func() { os.Exit(exitFailure) })
		defer release()
		err = p.postLog(ctx, invocation, logger)
	default:
		var run func(context.Context) error
		run, hurry, err = prepare(invocation, logger)
		if err == nil {
			release := onSignals(cancel, hurry)
			defer release()
			err = run(ctx)
		}
	}
	switch {
	case errors.Is(err, hostclient.ErrInvalidAddress):
		fmt.Fprintf(p.stderr, "guest-tools: --host: %v\n\n%s", err, usage)
		return exitUsage
	case err != nil:
		fmt.Fprintf(p.stderr, "guest-tools: %v\n", err)
		return exitFailure
	}
	return exitOK
}

// onSignals calls end at the first signal that asks for an end, and hurry at each one after it.
func onSignals(end, hurry func()) (release func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// Whoever read our log may be gone: that is no reason to end. Ignoring the signal would make the
	// task ignore it, too.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		act := end
		for {
			select {
			case <-signals:
				act()
				act = hurry
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		signal.Stop(pipes)
		close(done)
	}
}
