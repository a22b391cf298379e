package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/hexworker/metaservice/adapters/processes"
	"github.com/hexworker/metaservice/adapters/processmachine"
	"github.com/hexworker/metaservice/ports"
)

// shimCommand is the hidden first argument under which metaservice holds the processes of a guest.
const shimCommand = "tree-shim"

// bootPatience is how long guest-tools may take to call.
const bootPatience = 60 * time.Second

func runCommand(to streams) *cobra.Command {
	var flags jobFlags
	var guest guestFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a task in a guest on this machine",
		Long: `Run a task in a guest. The task begins in a folder of its own, with PATH and the variables
that you give it. Its log comes on standard output, and its exit status is this command's.

` + machineHelp,
		Example: "  metaservice run --env WHO=world --artifact hello.txt -- sh -c 'echo hello, $WHO | tee hello.txt'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.run(cmd, args, to, guest.machine)
		},
	}
	flags.add(cmd)
	guest.add(cmd)
	return cmd
}

func processMachine(around *setting, tools, config string) (ports.Machine, error) {
	tools, err := findTools(tools)
	if err != nil {
		return nil, err
	}
	guest, err := readConfig(config)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("metaservice can't find itself, to hold what it starts: %w", err)
	}
	holder, err := processes.New(processes.Config{
		Mode:   processes.ModeShim, // it ends all of it even if we are killed
		Shim:   []string{self, shimCommand},
		Logger: around.inner,
	})
	if err != nil {
		return nil, err
	}
	return processmachine.New(processmachine.Config{
		GuestTools:  tools,
		Processes:   holder,
		Serve:       around.serve,
		GuestConfig: guest.text,
		Owner:       guest.owner,
		Output:      around.verbose,
		Logger:      around.inner,
	})
}
