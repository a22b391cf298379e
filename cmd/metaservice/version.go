package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (make build does). Otherwise it is the module's, as the go command
// stamped it.
var version string

// versions is the version with what the binary was made for, and by.
func versions() string {
	own := version
	if info, ok := debug.ReadBuildInfo(); own == "" && ok {
		own = info.Main.Version
	}
	if own == "" {
		own = "unknown"
	}
	return fmt.Sprintf("%s %s/%s %s", own, runtime.GOOS, runtime.GOARCH, runtime.Version())
}

func versionCommand(to streams) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  metaservice version",
		Args:    noArgs,
		Run:     func(*cobra.Command, []string) { fmt.Fprintln(to.out, "metaservice", versions()) },
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments", cmd.Name())
	}
	return nil
}
