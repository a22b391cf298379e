//go:build unix

package scripts

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"

	"github.com/rogpeppe/go-internal/testscript"
)

// tmuxSocket is a script's own server.
const tmuxSocket = "tmux.sock"

func tmux(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "tmux COMMAND [ARG...]")
	cmd := tmuxCommand(ts, args...)
	out, err := cmd.CombinedOutput()
	ts.Stdout().Write(out)
	ts.Check(err)
}

func tmuxCommand(ts *testscript.TestScript, args ...string) *exec.Cmd {
	cmd := command(ts, append([]string{"tmux", "-S", ts.MkAbs(tmuxSocket), "-f", os.DevNull}, args...))
	cmd.Env = append(cmd.Env, "SHELL=/bin/sh", "PS1=\\$ ", "LC_ALL=C")
	return cmd
}

func screen(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "screen PATTERN")
	expression, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	await(ts, func() error {
		shown, err := tmuxCommand(ts, "capture-pane", "-p").CombinedOutput()
		if !expression.Match(shown) {
			return fmt.Errorf("the screen does not match %q, but shows %v\n%s\n", args[0], err, shown)
		}
		return nil
	})
}

// endTmux ends the server of a script, if there is one.
func endTmux(env *testscript.Env) {
	socket := env.WorkDir + "/" + tmuxSocket
	if _, err := os.Stat(socket); err == nil {
		_ = exec.Command("tmux", "-S", socket, "kill-server").Run() // one that has ended is fine
	}
}
